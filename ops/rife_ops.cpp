// Registers rife::Warp with onnxruntime. The arithmetic is in warp.h.
//
// Whatever is wrong with a model or its inputs comes back as an onnxruntime error. Nothing here
// throws.

#include <atomic>
#include <cstdio>
#include <new>

#include "onnxruntime_abi.h"
#include "warp_avx2.h"

#ifdef _WIN32
#define RIFE_EXPORT __declspec(dllexport)
#else
#define RIFE_EXPORT __attribute__((visibility("default")))
#endif

namespace {

constexpr char kDomain[] = "rife";
constexpr char kOpType[] = "Warp";
constexpr int kOpVersion = 1;
constexpr std::size_t kImage = 0, kFlow = 1, kInputs = 2, kOutputs = 1;
// Elements per task of the thread pool: small enough to share a frame evenly, large enough to hide
// what it costs to hand out a task.
constexpr std::int64_t kTaskElements = 1 << 16;
// The oldest version of the interface; every onnxruntime has it, to report an error through.
constexpr std::uint32_t kFirstApiVersion = 1;

struct WarpOp : OrtCustomOp {
  const OrtApi* api = nullptr;
};

OrtStatus* refuse(const OrtApi& api, const rife::Refusal& why) noexcept {
  return api.CreateStatus(ORT_INVALID_ARGUMENT, why.text);
}

struct Dims {
  std::int64_t size[rife::kRank] = {};
  std::size_t rank = 0;
};

// The dimensions stay 0 where the rank is not the expected one.
OrtStatus* read_dims(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info,
                     Dims& dims) noexcept {
  if (OrtStatus* status = api.GetDimensionsCount(info, &dims.rank)) return status;
  if (dims.rank != rife::kRank) return nullptr;
  return api.GetDimensions(info, dims.size, rife::kRank);
}

struct Input {
  Dims dims;
  const float* data = nullptr;
};

OrtStatus* read_input(const OrtApi& api, const OrtKernelContext* context, std::size_t index,
                      Input& input) noexcept {
  const OrtValue* value = nullptr;
  if (OrtStatus* status = api.KernelContext_GetInput(context, index, &value)) return status;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  if (OrtStatus* status = api.GetTensorTypeAndShape(value, &info)) return status;
  OrtStatus* const status = read_dims(api, info, input.dims);
  api.ReleaseTensorTypeAndShapeInfo(info);
  if (status != nullptr) return status;
  // The interface has no function for constant data in every supported version.
  void* data = nullptr;
  if (OrtStatus* error = api.GetTensorMutableData(const_cast<OrtValue*>(value), &data)) {
    return error;
  }
  input.data = static_cast<const float*>(data);
  return nullptr;
}

struct Work {
  rife::SegmentSteps steps;
  rife::Extent extent;
  const float* image;
  const float* flow;
  float* out;
  std::int64_t rows, rows_per_task;
};

void run_task(void* data, std::size_t index) {
  const Work& work = *static_cast<const Work*>(data);
  const std::int64_t first = static_cast<std::int64_t>(index) * work.rows_per_task;
  const std::int64_t end = first + work.rows_per_task;
  rife::warp_rows(work.steps, work.extent, work.image, work.flow, work.out, first,
                  end < work.rows ? end : work.rows);
}

OrtStatus* run_in_parallel(const OrtApi& api, const OrtKernelContext* context,
                           Work& work) noexcept {
  const std::int64_t row_elements = work.extent.width * work.extent.channels;
  work.rows = work.extent.batch * work.extent.height;
  work.rows_per_task = 1 + kTaskElements / row_elements;
  const std::int64_t tasks = (work.rows + work.rows_per_task - 1) / work.rows_per_task;
  return api.KernelContext_ParallelFor(context, run_task, static_cast<std::size_t>(tasks), 0,
                                       &work);
}

OrtStatus* ORT_API_CALL compute(void* kernel, OrtKernelContext* context) noexcept {
  const OrtApi& api = *static_cast<const WarpOp*>(kernel)->api;
  Input image, flow;
  if (OrtStatus* status = read_input(api, context, kImage, image)) return status;
  if (OrtStatus* status = read_input(api, context, kFlow, flow)) return status;
  rife::Refusal why;
  if (!rife::accept_shapes(image.dims.size, image.dims.rank, flow.dims.size, flow.dims.rank,
                           why)) {
    return refuse(api, why);
  }

  OrtValue* output = nullptr;
  if (OrtStatus* status = api.KernelContext_GetOutput(context, 0, image.dims.size, rife::kRank,
                                                      &output)) {
    return status;
  }
  const std::int64_t* const size = image.dims.size;
  const rife::Extent extent = {size[0], size[1], size[2], size[3]};
  if (output == nullptr || extent.elements() == 0) return nullptr;
  void* out = nullptr;
  if (OrtStatus* status = api.GetTensorMutableData(output, &out)) return status;
  Work work = {rife::choose_steps(), extent, image.data, flow.data, static_cast<float*>(out), 0, 0};
  return run_in_parallel(api, context, work);
}

// Whether onnxruntime knows a number or a name for every dimension. A dimension without either
// would be handed on as -1.
OrtStatus* check_named(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info, const Dims& dims,
                       bool& is_named) noexcept {
  const char* names[rife::kRank] = {};
  if (OrtStatus* status = api.GetSymbolicDimensions(info, names, rife::kRank)) return status;
  is_named = true;
  for (std::size_t i = 0; i < rife::kRank; ++i) {
    const bool has_name = names[i] != nullptr && names[i][0] != '\0';
    is_named = is_named && (dims.size[i] >= 0 || has_name);
  }
  return nullptr;
}

// What is known of an input while a model is loaded. A tensor of unknown rank looks like one of rank
// 0, which the operator never has.
OrtStatus* read_known_dims(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info, Dims& dims,
                           bool& has_rank) noexcept {
  if (OrtStatus* status = read_dims(api, info, dims)) return status;
  has_rank = dims.rank != 0;
  if (!has_rank) {
    dims.rank = rife::kRank;
    for (std::int64_t& size : dims.size) size = -1;
  }
  return nullptr;
}

// onnxruntime up to 1.32 drops the status that a shape function returns (CreateSchema in its
// custom_ops.cc): a model with shapes that are known to be wrong loads, and the kernel refuses it.
OrtStatus* ORT_API_CALL infer_shape(const OrtCustomOp* op, OrtShapeInferContext* context) noexcept {
  const OrtApi& api = *static_cast<const WarpOp*>(op)->api;
  OrtTensorTypeAndShapeInfo* info[kInputs] = {};  // the context owns them
  Dims dims[kInputs];
  bool has_rank[kInputs] = {};
  for (std::size_t i = 0; i < kInputs; ++i) {
    if (OrtStatus* status = api.ShapeInferContext_GetInputTypeShape(context, i, &info[i])) {
      return status;
    }
    if (OrtStatus* status = read_known_dims(api, info[i], dims[i], has_rank[i])) return status;
  }
  rife::Refusal why;
  if (!rife::accept_shapes(dims[kImage].size, dims[kImage].rank, dims[kFlow].size,
                           dims[kFlow].rank, why)) {
    return refuse(api, why);
  }
  if (!has_rank[kImage]) return nullptr;
  bool is_named = false;
  if (OrtStatus* status = check_named(api, info[kImage], dims[kImage], is_named)) return status;
  return is_named ? api.ShapeInferContext_SetOutputTypeShape(context, 0, info[kImage]) : nullptr;
}

// The op itself is all the state that a kernel needs.
OrtStatus* ORT_API_CALL create_kernel(const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo*,
                                      void** kernel) noexcept {
  *kernel = const_cast<WarpOp*>(static_cast<const WarpOp*>(op));
  return nullptr;
}

void ORT_API_CALL destroy_kernel(void*) noexcept {}

const char* ORT_API_CALL get_name(const OrtCustomOp*) noexcept { return kOpType; }

const char* ORT_API_CALL get_provider(const OrtCustomOp*) noexcept {
  return nullptr;  // the CPU
}

ONNXTensorElementDataType ORT_API_CALL get_type(const OrtCustomOp*, std::size_t) noexcept {
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

std::size_t ORT_API_CALL count_inputs(const OrtCustomOp*) noexcept { return kInputs; }

std::size_t ORT_API_CALL count_outputs(const OrtCustomOp*) noexcept { return kOutputs; }

OrtCustomOpInputOutputCharacteristic ORT_API_CALL get_characteristic(const OrtCustomOp*,
                                                                     std::size_t) noexcept {
  return INPUT_OUTPUT_REQUIRED;
}

OrtMemType ORT_API_CALL get_memory_type(const OrtCustomOp*, std::size_t) noexcept {
  return OrtMemTypeDefault;
}

int ORT_API_CALL get_version(const OrtCustomOp*) noexcept { return kOpVersion; }

void fill_op(WarpOp& op, const OrtApi& api) noexcept {
  op.version = kOrtApiVersion;
  op.api = &api;
  op.GetName = get_name;
  op.GetExecutionProviderType = get_provider;
  op.GetInputType = get_type;
  op.GetInputTypeCount = count_inputs;
  op.GetOutputType = get_type;
  op.GetOutputTypeCount = count_outputs;
  op.KernelDestroy = destroy_kernel;
  op.GetInputCharacteristic = get_characteristic;
  op.GetOutputCharacteristic = get_characteristic;
  op.GetInputMemoryType = get_memory_type;
  op.CreateKernelV2 = create_kernel;
  op.KernelComputeV2 = compute;
  op.InferOutputShapeFn = infer_shape;
  op.GetStartVersion = get_version;
  op.GetEndVersion = get_version;
}

// The op and its domain have to outlive every session that uses them, and a process can hold more
// than one onnxruntime. So there is one registration for each, made once and never taken back: at
// the end of a process, onnxruntime may be gone before this library is.
struct Registration {
  WarpOp op;
  OrtCustomOpDomain* domain = nullptr;
  const Registration* next = nullptr;
};

std::atomic<const Registration*> registrations{nullptr};

const Registration* find_registration(const OrtApi& api) noexcept {
  const Registration* entry = registrations.load(std::memory_order_acquire);
  while (entry != nullptr && entry->op.api != &api) entry = entry->next;
  return entry;
}

OrtStatus* create_domain(const OrtApi& api, Registration& entry) noexcept {
  fill_op(entry.op, api);
  if (OrtStatus* status = api.CreateCustomOpDomain(kDomain, &entry.domain)) return status;
  OrtStatus* const status = api.CustomOpDomain_Add(entry.domain, &entry.op);
  if (status != nullptr) api.ReleaseCustomOpDomain(entry.domain);
  return status;
}

OrtStatus* make_registration(const OrtApi& api, const Registration*& made) noexcept {
  Registration* const entry = new (std::nothrow) Registration();
  if (entry == nullptr) return api.CreateStatus(ORT_FAIL, "rife_ops: out of memory");
  if (OrtStatus* status = create_domain(api, *entry)) {
    delete entry;
    return status;
  }
  // Two threads may both get here: each then has an entry of its own, which does no harm.
  entry->next = registrations.load(std::memory_order_relaxed);
  while (!registrations.compare_exchange_weak(entry->next, entry, std::memory_order_release,
                                              std::memory_order_relaxed)) {
  }
  made = entry;
  return nullptr;
}

OrtStatus* refuse_version(const OrtApiBase& base) noexcept {
  const OrtApi* const first = base.GetApi(kFirstApiVersion);
  if (first == nullptr) return nullptr;  // no interface, so no error either; the op stays unknown
  char text[128];
  std::snprintf(text, sizeof text, "rife_ops needs onnxruntime 1.%u or newer; this is %s",
                static_cast<unsigned>(kOrtApiVersion), base.GetVersionString());
  return first->CreateStatus(ORT_NOT_IMPLEMENTED, text);
}

}  // namespace

// What onnxruntime's register_custom_ops_library looks for.
extern "C" RIFE_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                 const OrtApiBase* base) noexcept {
  const OrtApi* const api = base->GetApi(kOrtApiVersion);
  if (api == nullptr) return refuse_version(*base);
  const Registration* entry = find_registration(*api);
  if (entry == nullptr) {
    if (OrtStatus* status = make_registration(*api, entry)) return status;
  }
  return api->AddCustomOpDomain(options, entry->domain);
}
