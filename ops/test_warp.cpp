// A stand-alone test of warp.h, meant for a build with sanitizers (SURGERY_SANITIZE=ON): every
// array has exactly its size, so a read beside it is found.

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "warp_avx2.h"

namespace {

using rife::Extent;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kSpecial[] = {kNan, kInfinity, -kInfinity, 3e38f, -3e38f, 3e9f, -3e9f, -0.0f};

int failures = 0;

void expect(bool is_true, const char* what, const Extent& extent) {
  if (is_true) return;
  ++failures;
  std::printf("FAILED: %s, image [%lld,%lld,%lld,%lld]\n", what,
              static_cast<long long>(extent.batch), static_cast<long long>(extent.channels),
              static_cast<long long>(extent.height), static_cast<long long>(extent.width));
}

struct Arrays {
  Extent extent;
  std::vector<float> image, flow;

  explicit Arrays(const Extent& size)
      : extent(size),
        image(static_cast<std::size_t>(size.elements())),
        flow(static_cast<std::size_t>(size.batch * rife::kFlowChannels * size.height *
                                      size.width)) {}

  std::vector<float> warp(const rife::SegmentSteps& steps) const {
    std::vector<float> out(image.size(), -1.0f);
    rife::warp_rows(steps, extent, image.data(), flow.data(), out.data(), 0,
                    extent.batch * extent.height);
    return out;
  }
};

bool is_same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// The definition in double precision, written apart from what it tests.
double sample(const float* plane, const Extent& extent, double x, double y) {
  if (std::isnan(x) || std::isnan(y)) return 0.0;
  x = std::fmin(std::fmax(x, 0.0), static_cast<double>(extent.width - 1));
  y = std::fmin(std::fmax(y, 0.0), static_cast<double>(extent.height - 1));
  const double left = std::floor(x), top = std::floor(y);
  double total = 0.0;
  for (int corner = 0; corner < 4; ++corner) {
    const double column = left + corner % 2, row = top + corner / 2;
    const double weight = (1.0 - std::fabs(x - column)) * (1.0 - std::fabs(y - row));
    if (weight == 0.0) continue;
    total += weight * plane[static_cast<std::int64_t>(row) * extent.width +
                            static_cast<std::int64_t>(column)];
  }
  return total;
}

double largest_error(const Arrays& arrays, const std::vector<float>& out) {
  const Extent& e = arrays.extent;
  const std::int64_t plane = e.height * e.width;
  double largest = 0.0;
  for (std::int64_t i = 0; i < e.elements(); ++i) {
    const std::int64_t n = i / (e.channels * plane), pixel = i % plane;
    const float* const flow = arrays.flow.data() + n * rife::kFlowChannels * plane + pixel;
    const double expected =
        sample(arrays.image.data() + i / plane * plane, e,
               static_cast<double>(pixel % e.width) + static_cast<double>(flow[0]),
               static_cast<double>(pixel / e.width) + static_cast<double>(flow[plane]));
    const double error = std::fabs(expected - out[static_cast<std::size_t>(i)]);
    // fmax would pass it over.
    if (std::isnan(error)) return static_cast<double>(kInfinity);
    largest = std::fmax(largest, error);
  }
  return largest;
}

// `special` is the share of flow values that are no ordinary number; without noise, most groups
// of pixels are runs.
Arrays make_arrays(const Extent& extent, double special, double noise, std::mt19937& random) {
  Arrays arrays(extent);
  std::uniform_real_distribution<float> unit(0.0f, 1.0f);
  std::normal_distribution<float> shift(0.0f, 1.0f);
  for (float& value : arrays.image) value = unit(random);
  const float base = 8.0f * shift(random);
  for (float& value : arrays.flow) {
    value = base + static_cast<float>(noise) * shift(random);
    if (unit(random) < special) value = kSpecial[random() % (sizeof kSpecial / sizeof(float))];
  }
  return arrays;
}

void test_against_definition(const Arrays& arrays) {
  // A position below 2^10 in float32 is off by at most 2^-15 pixels, and neighbours in 0..1
  // differ by at most 1 in each direction.
  constexpr double tolerance = 1e-4;
  const std::vector<float> out = arrays.warp(rife::kPlainSteps);
  expect(largest_error(arrays, out) <= tolerance, "plain steps differ from the definition",
         arrays.extent);
  expect(is_same(out, arrays.warp(rife::choose_steps())),
         "this processor's steps give other bits than the plain ones", arrays.extent);
}

void test_fuzz(std::mt19937& random) {
  const auto up_to = [&random](std::int64_t most) {
    return 1 + static_cast<std::int64_t>(random() % static_cast<std::uint32_t>(most));
  };
  for (int round = 0; round < 400; ++round) {
    const std::int64_t widest = round % 8 == 0 ? 600 : 40;
    const Extent extent = {up_to(2), up_to(5), up_to(24), up_to(widest)};
    const double special = round % 3 == 0 ? 0.2 : 0.0;
    test_against_definition(make_arrays(extent, special, round % 2 == 0 ? 0.0 : 4.0, random));
  }
}

void test_edge_sizes(std::mt19937& random) {
  const Extent sizes[] = {{1, 1, 1, 1}, {1, 3, 1, 9},  {1, 3, 9, 1},   {2, 1, 2, 2},
                          {1, 2, 2, 8}, {1, 2, 3, 256}, {1, 1, 2, 257}, {1, 1, 1, 264}};
  for (const Extent& extent : sizes) {
    test_against_definition(make_arrays(extent, 0.0, 0.0, random));
    test_against_definition(make_arrays(extent, 0.3, 6.0, random));
  }
  for (const Extent& empty : {Extent{0, 3, 4, 5}, Extent{1, 0, 4, 5}, Extent{1, 3, 0, 5},
                              Extent{1, 3, 4, 0}}) {
    expect(Arrays(empty).warp(rife::choose_steps()).empty(), "an empty image", empty);
  }
}

void test_still_image(std::mt19937& random) {
  Arrays arrays = make_arrays({1, 3, 11, 37}, 0.0, 0.0, random);
  for (float& value : arrays.flow) value = 0.0f;
  expect(is_same(arrays.warp(rife::choose_steps()), arrays.image), "no flow changes the image",
         arrays.extent);
}

// A NaN in the image is none of a sample's business when its weight is the neighbour's share of
// a position on the border.
void test_border_reads_only_the_border() {
  Arrays arrays({1, 1, 3, 16});
  for (std::size_t i = 0; i < arrays.image.size(); ++i) {
    arrays.image[i] = i % 16 == 15 ? 0.5f : kNan;
  }
  const std::size_t plane = arrays.image.size();
  for (std::size_t i = 0; i < plane; ++i) arrays.flow[i] = kInfinity;
  for (const rife::SegmentSteps& steps : {rife::kPlainSteps, rife::choose_steps()}) {
    bool is_border = true;
    for (const float value : arrays.warp(steps)) is_border = is_border && value == 0.5f;
    expect(is_border, "the border column alone is read", arrays.extent);
  }
}

void test_lost_pixels_are_zero() {
  Arrays arrays({1, 2, 2, 24});
  for (float& value : arrays.image) value = kInfinity;
  for (std::size_t i = 0; i < arrays.flow.size(); ++i) {
    if (i % 2 == 0) arrays.flow[i] = kNan;
  }
  const std::vector<float> out = arrays.warp(rife::choose_steps());
  bool is_zero = true;
  for (std::size_t i = 0; i < out.size(); i += 2) is_zero = is_zero && out[i] == 0.0f;
  expect(is_zero, "NaN in the flow gives 0 whatever the image holds", arrays.extent);
  expect(out[1] != 0.0f, "and only there", arrays.extent);
}

void test_rows_in_any_split(std::mt19937& random) {
  const Arrays arrays = make_arrays({2, 3, 13, 45}, 0.05, 3.0, random);
  const std::vector<float> whole = arrays.warp(rife::choose_steps());
  std::vector<float> parts(whole.size(), -1.0f);
  for (std::int64_t row = 0; row < 26; row += 5) {
    rife::warp_rows(rife::choose_steps(), arrays.extent, arrays.image.data(), arrays.flow.data(),
                    parts.data(), row, row + 5 < 26 ? row + 5 : 26);
  }
  expect(is_same(whole, parts), "rows in parts give the same bits", arrays.extent);
}

// A control of the comparison: NaN and an error beyond the tolerance are both seen.
void test_errors_are_seen(std::mt19937& random) {
  const Arrays arrays = make_arrays({1, 2, 5, 9}, 0.0, 2.0, random);
  for (const float wrong : {kNan, 2.0f}) {
    std::vector<float> out = arrays.warp(rife::kPlainSteps);
    out[3] = wrong;
    expect(largest_error(arrays, out) > 0.5, "a wrong pixel is seen", arrays.extent);
  }
}

bool accepts(std::vector<std::int64_t> image, std::vector<std::int64_t> flow) {
  rife::Refusal why = {};
  const bool is_accepted =
      rife::accept_shapes(image.data(), image.size(), flow.data(), flow.size(), why);
  if (!is_accepted && std::strncmp(why.text, "rife::Warp: ", 12) != 0) ++failures;
  return is_accepted;
}

void test_shapes() {
  const Extent none = {};
  constexpr std::int64_t side = rife::kMaxSide, most = std::numeric_limits<std::int64_t>::max();
  expect(accepts({2, 3, 4, 5}, {2, 2, 4, 5}), "fitting shapes", none);
  expect(accepts({2, 3, -1, -1}, {-1, 2, 4, 5}), "unknown dimensions", none);
  expect(accepts({1, 127, 1, side}, {1, 2, 1, side}), "the largest image", none);
  expect(accepts({most, 0, most, 1}, {most, 2, 0, 1}) == false, "sizes that differ", none);
  expect(!accepts({2, 3, 4, 5}, {2, 3, 4, 5}), "three flow channels", none);
  expect(!accepts({2, 3, 4, 5}, {2, 2, 5, 4}), "a flow of another size", none);
  expect(!accepts({2, 3, 4, 5}, {1, 2, 4, 5}), "a flow of another batch", none);
  expect(!accepts({3, 4, 5}, {2, 2, 4, 5}), "an image of rank 3", none);
  expect(!accepts({2, 3, 4, 5}, {2, 2, 4, 5, 1}), "a flow of rank 5", none);
  expect(!accepts({}, {}), "scalars", none);
  expect(!accepts({1, 128, 1, side}, {1, 2, 1, side}), "2^31 elements", none);
  expect(!accepts({1, 1, 1, side + 1}, {1, 2, 1, side + 1}), "a side beyond float32", none);
  expect(!accepts({most, most, 2, 2}, {most, 2, 2, 2}), "a product beyond int64", none);
}

}  // namespace

// A control of the sanitizers: "cast" does what they have to report, and nothing else.
int main(int count, char** arguments) {
  if (count == 2 && std::strcmp(arguments[1], "cast") == 0) {
    volatile float huge = 3e9f;
    return static_cast<int>(huge) == 0;
  }
  std::mt19937 random(20240611);
  test_shapes();
  test_errors_are_seen(random);
  test_edge_sizes(random);
  test_still_image(random);
  test_border_reads_only_the_border();
  test_lost_pixels_are_zero();
  test_rows_in_any_split(random);
  test_fuzz(random);
  std::printf("%d failures\n", failures);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
