// The two steps of warp.h for x86-64 processors with AVX2, chosen at run time. The roundings are
// those of the plain steps: AVX2 alone has no fused multiply-add.

#ifndef RIFE_WARP_AVX2_H_
#define RIFE_WARP_AVX2_H_

#include "warp.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define RIFE_HAS_AVX2 1
#include <immintrin.h>
#endif

namespace rife {

#ifdef RIFE_HAS_AVX2
#define RIFE_AVX2 __attribute__((target("avx2")))

namespace detail {

struct Pairs {
  __m256 left, right;
};

// The pairs of two pixels: (left, right, left, right).
RIFE_AVX2 inline __m128 load_two_pairs(const float* first, const float* second) {
  const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(first));
  return _mm_loadh_pi(_mm_castsi128_ps(low), reinterpret_cast<const __m64*>(second));
}

// The two horizontal neighbours of eight pixels, loaded as eight pairs: half the loads of a gather.
RIFE_AVX2 inline Pairs load_pairs(const float* plane, const std::int32_t* offset) {
  const __m128 pixels_01 = load_two_pairs(plane + offset[0], plane + offset[1]);
  const __m128 pixels_23 = load_two_pairs(plane + offset[2], plane + offset[3]);
  const __m128 pixels_45 = load_two_pairs(plane + offset[4], plane + offset[5]);
  const __m128 pixels_67 = load_two_pairs(plane + offset[6], plane + offset[7]);
  // shuffle_ps works on each half by itself.
  const __m256 even = _mm256_set_m128(pixels_45, pixels_01);
  const __m256 odd = _mm256_set_m128(pixels_67, pixels_23);
  return {_mm256_shuffle_ps(even, odd, _MM_SHUFFLE(2, 0, 2, 0)),
          _mm256_shuffle_ps(even, odd, _MM_SHUFFLE(3, 1, 3, 1))};
}

RIFE_AVX2 inline __m256 mix(__m256 first, __m256 second, __m256 weight, __m256 rest) {
  return _mm256_add_ps(_mm256_mul_ps(first, rest), _mm256_mul_ps(second, weight));
}

RIFE_AVX2 inline __m256i load_lanes(const std::int32_t* lanes) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes));
}

RIFE_AVX2 inline void store_lanes(std::int32_t* lanes, __m256i value) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), value);
}

RIFE_AVX2 inline void decode_group(const Span& span, int i, Segment& segment) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256 zero = _mm256_setzero_ps();
  const __m256 shift_x = _mm256_loadu_ps(span.flow_x + i);
  const __m256 shift_y = _mm256_loadu_ps(span.flow_y + i);
  const __m256 own_x = _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_set1_epi32(span.x + i), lane));
  const __m256 own_y = _mm256_set1_ps(static_cast<float>(span.y));
  const __m256 last_x = _mm256_set1_ps(static_cast<float>(span.width - 1));
  const __m256 last_y = _mm256_set1_ps(static_cast<float>(span.height - 1));
  // max_ps gives its second operand for a NaN, which becomes 0 here.
  const __m256 x = _mm256_min_ps(_mm256_max_ps(_mm256_add_ps(own_x, shift_x), zero), last_x);
  const __m256 y = _mm256_min_ps(_mm256_max_ps(_mm256_add_ps(own_y, shift_y), zero), last_y);
  const __m256i left = _mm256_cvttps_epi32(x);
  const __m256i top = _mm256_cvttps_epi32(y);
  const __m256i last_left = _mm256_set1_epi32(span.last_left());
  const __m256i width = _mm256_set1_epi32(span.width);

  const __m256i offset =
      _mm256_add_epi32(_mm256_mullo_epi32(top, width), _mm256_min_epi32(left, last_left));
  const __m256i has_below = _mm256_cmpgt_epi32(_mm256_set1_epi32(span.height - 1), top);
  const __m256i below = _mm256_and_si256(has_below, width);
  const __m256i on_edge = _mm256_cmpgt_epi32(left, last_left);
  const __m256i is_lost = _mm256_castps_si256(_mm256_cmp_ps(shift_x, shift_y, _CMP_UNORD_Q));
  store_lanes(segment.offset + i, offset);
  store_lanes(segment.below + i, below);
  store_lanes(segment.on_edge + i, on_edge);
  store_lanes(segment.is_lost + i, is_lost);
  _mm256_store_ps(segment.weight_x + i, _mm256_sub_ps(x, _mm256_cvtepi32_ps(left)));
  _mm256_store_ps(segment.weight_y + i, _mm256_sub_ps(y, _mm256_cvtepi32_ps(top)));

  const __m256i zeroth = _mm256_setzero_si256();
  const __m256i run = _mm256_add_epi32(_mm256_permutevar8x32_epi32(offset, zeroth), lane);
  const __m256i faults = _mm256_or_si256(
      _mm256_or_si256(_mm256_xor_si256(offset, run),
                      _mm256_xor_si256(below, _mm256_permutevar8x32_epi32(below, zeroth))),
      _mm256_or_si256(on_edge, is_lost));
  segment.is_run[i / kGroup] = _mm256_testz_si256(faults, faults) != 0;
}

RIFE_AVX2 inline void blend_group(const float* plane, const Segment& segment, int i, float* out) {
  const __m256 weight_x = _mm256_load_ps(segment.weight_x + i);
  const __m256 weight_y = _mm256_load_ps(segment.weight_y + i);
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 rest_x = _mm256_sub_ps(one, weight_x), rest_y = _mm256_sub_ps(one, weight_y);
  if (segment.is_run[i / kGroup]) {
    const float* const upper = plane + segment.offset[i];
    const float* const lower = upper + segment.below[i];
    const __m256 top = mix(_mm256_loadu_ps(upper), _mm256_loadu_ps(upper + 1), weight_x, rest_x);
    const __m256 bottom = mix(_mm256_loadu_ps(lower), _mm256_loadu_ps(lower + 1), weight_x, rest_x);
    _mm256_storeu_ps(out + i, mix(top, bottom, weight_y, rest_y));
    return;
  }
  alignas(32) std::int32_t lower_offset[kGroup];
  store_lanes(lower_offset,
              _mm256_add_epi32(load_lanes(segment.offset + i), load_lanes(segment.below + i)));
  const Pairs upper = load_pairs(plane, segment.offset + i);
  const Pairs lower = load_pairs(plane, lower_offset);
  const __m256 on_edge = _mm256_castsi256_ps(load_lanes(segment.on_edge + i));
  const __m256 is_lost = _mm256_castsi256_ps(load_lanes(segment.is_lost + i));
  const __m256 upper_left = _mm256_blendv_ps(upper.left, upper.right, on_edge);
  const __m256 lower_left = _mm256_blendv_ps(lower.left, lower.right, on_edge);
  const __m256 top = mix(upper_left, upper.right, weight_x, rest_x);
  const __m256 bottom = mix(lower_left, lower.right, weight_x, rest_x);
  _mm256_storeu_ps(out + i, _mm256_andnot_ps(is_lost, mix(top, bottom, weight_y, rest_y)));
}

}  // namespace detail

RIFE_AVX2 inline void decode_avx2(const Span& span, Segment& segment) {
  int i = 0;
  for (; i + kGroup <= span.count; i += kGroup) detail::decode_group(span, i, segment);
  detail::decode_pixels(span, i, segment);
}

RIFE_AVX2 inline void blend_avx2(const float* plane, const Segment& segment, const Span& span,
                                 float* out) {
  int i = 0;
  for (; i + kGroup <= span.count; i += kGroup) detail::blend_group(plane, segment, i, out);
  detail::blend_pixels(plane, segment, span, i, span.count, out);
}

constexpr SegmentSteps kAvx2Steps = {decode_avx2, blend_avx2};

#undef RIFE_AVX2
#endif  // RIFE_HAS_AVX2

inline SegmentSteps choose_steps() {
#ifdef RIFE_HAS_AVX2
  if (__builtin_cpu_supports("avx2")) return kAvx2Steps;
#endif
  return kPlainSteps;
}

}  // namespace rife

#endif  // RIFE_WARP_AVX2_H_
