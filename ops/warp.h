// The arithmetic of rife::Warp: backward warping with bilinear samples and clamped borders.
//
//   out[n, c, y, x] = bilinear sample of image[n, c] at (x + flow[n, 0, y, x], y + flow[n, 1, y, x])
//
// surgery/hub/warp.py holds the definition; what is here gives the same bits as its reference for
// finite images. Every step has the same roundings in each instruction set (no fused
// multiply-adds), so neither the processor nor the number of threads shows in the result.
//
// A row is worked through in segments. A segment is decoded once (where each pixel reads, with
// which weights) and then blended for every channel, because the flow is the same for all of them.
//
// Nothing here allocates, throws or knows of onnxruntime.

#ifndef RIFE_WARP_H_
#define RIFE_WARP_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace rife {

constexpr std::size_t kRank = 4;
constexpr std::int64_t kFlowChannels = 2;
// Positions are float32, which has every integer up to here and not beyond.
constexpr std::int64_t kMaxSide = std::int64_t{1} << 24;
// Positions within a plane are int32.
constexpr std::int64_t kMaxElements = INT32_MAX;

struct Extent {
  std::int64_t batch, channels, height, width;

  std::int64_t elements() const { return batch * channels * height * width; }
};

struct Refusal {
  char text[256];
};

namespace detail {

// A negative dimension is one that nobody knows yet.
inline bool differs(std::int64_t a, std::int64_t b) { return a >= 0 && b >= 0 && a != b; }

inline bool too_many_elements(const std::int64_t* dims) {
  std::int64_t product = 1;
  bool is_empty = false;
  for (std::size_t i = 0; i < kRank; ++i) is_empty = is_empty || dims[i] == 0;
  if (is_empty) return false;
  for (std::size_t i = 0; i < kRank; ++i) {
    const std::int64_t dim = dims[i] < 0 ? 1 : dims[i];
    if (dim > kMaxElements / product) return true;
    product *= dim;
  }
  return false;
}

}  // namespace detail

// Whether the two shapes fit the operator; `why` is written when they do not. Negative dimensions
// are unknown and fit anything.
inline bool accept_shapes(const std::int64_t* image, std::size_t image_rank,
                          const std::int64_t* flow, std::size_t flow_rank, Refusal& why) {
  if (image_rank != kRank || flow_rank != kRank) {
    std::snprintf(why.text, sizeof why.text,
                  "rife::Warp: image of rank %zu, flow of rank %zu; accepted are [N,C,H,W] and "
                  "[N,2,H,W]",
                  image_rank, flow_rank);
    return false;
  }
  const bool fits = !detail::differs(flow[1], kFlowChannels) &&
                    !detail::differs(image[0], flow[0]) && !detail::differs(image[2], flow[2]) &&
                    !detail::differs(image[3], flow[3]);
  const bool is_small = image[2] <= kMaxSide && image[3] <= kMaxSide &&
                        !detail::too_many_elements(image) && !detail::too_many_elements(flow);
  if (fits && is_small) return true;
  const char* const accepted =
      fits ? "less than 2^31 elements, sides up to 2^24" : "[N,C,H,W] with a flow of [N,2,H,W]";
  std::snprintf(why.text, sizeof why.text,
                "rife::Warp: image [%lld,%lld,%lld,%lld], flow [%lld,%lld,%lld,%lld]; accepted "
                "are %s",
                static_cast<long long>(image[0]), static_cast<long long>(image[1]),
                static_cast<long long>(image[2]), static_cast<long long>(image[3]),
                static_cast<long long>(flow[0]), static_cast<long long>(flow[1]),
                static_cast<long long>(flow[2]), static_cast<long long>(flow[3]), accepted);
  return false;
}

// Pixels that one instruction-set step handles together, and pixels decoded at a time.
constexpr int kGroup = 8;
constexpr int kSegment = 256;

// Where the pixels of a segment read, and with which weights.
struct Segment {
  alignas(32) std::int32_t offset[kSegment];    // upper left neighbour, within a plane
  alignas(32) std::int32_t below[kSegment];     // from there to the lower left one: width or 0
  alignas(32) std::int32_t on_edge[kSegment];   // all bits set: on the last column, which is where
                                                // offset + 1 points
  alignas(32) std::int32_t is_lost[kSegment];   // all bits set: NaN in the flow, the output is 0
  alignas(32) float weight_x[kSegment];         // of the right neighbours
  alignas(32) float weight_y[kSegment];         // of the lower neighbours
  // Whether a group reads consecutive pixels of one row, none of them on the edge or lost.
  bool is_run[kSegment / kGroup];
};

// The part of a row that a segment covers.
struct Span {
  const float* flow_x;
  const float* flow_y;
  std::int32_t x, y;  // of the first pixel
  int count;
  std::int32_t height, width;

  std::int32_t last_left() const { return width > 1 ? width - 2 : 0; }
  std::int32_t to_right() const { return width > 1 ? 1 : 0; }
};

struct SegmentSteps {
  void (*decode)(const Span& span, Segment& segment);
  void (*blend)(const float* plane, const Segment& segment, const Span& span, float* out);
};

namespace detail {

// NaN fails the comparison and becomes 0.
inline float clamp_position(float position, float last) {
  const float raised = position > 0.0f ? position : 0.0f;
  return raised < last ? raised : last;
}

inline float mix(float first, float second, float weight) {
  return first * (1.0f - weight) + second * weight;
}

inline void decode_pixels(const Span& span, int first, Segment& segment) {
  const float last_x = static_cast<float>(span.width - 1);
  const float last_y = static_cast<float>(span.height - 1);
  for (int i = first; i < span.count; ++i) {
    const float shift_x = span.flow_x[i], shift_y = span.flow_y[i];
    const bool is_lost = shift_x != shift_x || shift_y != shift_y;
    const float x = clamp_position(static_cast<float>(span.x + i) + shift_x, last_x);
    const float y = clamp_position(static_cast<float>(span.y) + shift_y, last_y);
    const std::int32_t left = static_cast<std::int32_t>(x);
    const std::int32_t top = static_cast<std::int32_t>(y);
    const bool on_edge = left > span.last_left();
    segment.offset[i] = top * span.width + (on_edge ? span.last_left() : left);
    segment.below[i] = top < span.height - 1 ? span.width : 0;
    segment.on_edge[i] = on_edge ? -1 : 0;
    segment.is_lost[i] = is_lost ? -1 : 0;
    segment.weight_x[i] = x - static_cast<float>(left);
    segment.weight_y[i] = y - static_cast<float>(top);
  }
}

inline bool find_run(const Segment& segment, int first) {
  std::int32_t faults = 0;
  for (int i = first; i < first + kGroup; ++i) {
    faults |= segment.offset[i] - segment.offset[first] - (i - first);
    faults |= segment.below[i] - segment.below[first];
    faults |= segment.on_edge[i] | segment.is_lost[i];
  }
  return faults == 0;
}

inline void blend_pixels(const float* plane, const Segment& segment, const Span& span, int first,
                         int end, float* out) {
  const std::int32_t to_right = span.to_right();
  for (int i = first; i < end; ++i) {
    const float* const upper = plane + segment.offset[i];
    const float* const lower = upper + segment.below[i];
    const float upper_right = upper[to_right], lower_right = lower[to_right];
    // On the edge the left neighbour is the last column itself: what lies beside it, a NaN
    // perhaps, has no part in the sample.
    const float upper_left = segment.on_edge[i] ? upper_right : upper[0];
    const float lower_left = segment.on_edge[i] ? lower_right : lower[0];
    const float weight_x = segment.weight_x[i];
    const float value = mix(mix(upper_left, upper_right, weight_x),
                            mix(lower_left, lower_right, weight_x), segment.weight_y[i]);
    out[i] = segment.is_lost[i] ? 0.0f : value;
  }
}

// A group of consecutive pixels; the fixed length and the plain loads let compilers vectorise it.
inline void blend_run(const float* plane, const Segment& segment, int first, float* out) {
  const float* const upper = plane + segment.offset[first];
  const float* const lower = upper + segment.below[first];
  for (int i = 0; i < kGroup; ++i) {
    const float weight_x = segment.weight_x[first + i];
    out[first + i] = mix(mix(upper[i], upper[i + 1], weight_x),
                         mix(lower[i], lower[i + 1], weight_x), segment.weight_y[first + i]);
  }
}

}  // namespace detail

inline void decode_plain(const Span& span, Segment& segment) {
  detail::decode_pixels(span, 0, segment);
  for (int i = 0; i + kGroup <= span.count; i += kGroup) {
    segment.is_run[i / kGroup] = detail::find_run(segment, i);
  }
}

inline void blend_plain(const float* plane, const Segment& segment, const Span& span, float* out) {
  int i = 0;
  for (; i + kGroup <= span.count; i += kGroup) {
    if (segment.is_run[i / kGroup]) {
      detail::blend_run(plane, segment, i, out);
    } else {
      detail::blend_pixels(plane, segment, span, i, i + kGroup, out);
    }
  }
  detail::blend_pixels(plane, segment, span, i, span.count, out);
}

constexpr SegmentSteps kPlainSteps = {decode_plain, blend_plain};

// Warps rows first_row to end_row - 1, counted through the whole batch. The shapes have been
// accepted, and the three arrays do not overlap.
inline void warp_rows(const SegmentSteps& steps, const Extent& extent, const float* image,
                      const float* flow, float* out, std::int64_t first_row,
                      std::int64_t end_row) {
  const std::int64_t plane_size = extent.height * extent.width;
  Segment segment;
  for (std::int64_t row = first_row; row < end_row; ++row) {
    const std::int64_t n = row / extent.height, y = row % extent.height;
    const float* const flow_row = flow + n * kFlowChannels * plane_size + y * extent.width;
    const float* const image_planes = image + n * extent.channels * plane_size;
    float* const out_row = out + n * extent.channels * plane_size + y * extent.width;
    for (std::int64_t x = 0; x < extent.width; x += kSegment) {
      const std::int64_t left = extent.width - x;
      const Span span = {flow_row + x,
                         flow_row + plane_size + x,
                         static_cast<std::int32_t>(x),
                         static_cast<std::int32_t>(y),
                         static_cast<int>(left < kSegment ? left : kSegment),
                         static_cast<std::int32_t>(extent.height),
                         static_cast<std::int32_t>(extent.width)};
      steps.decode(span, segment);
      for (std::int64_t c = 0; c < extent.channels; ++c) {
        steps.blend(image_planes + c * plane_size, segment, span, out_row + c * plane_size + x);
      }
    }
  }
}

}  // namespace rife

#endif  // RIFE_WARP_H_
