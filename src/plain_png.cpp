#include "plain_png.h"

#include <libdeflate.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace semiseg {
namespace {

// Memory that a thread keeps from image to image: fresh pages would cost as much as a pass over the pixels.
class Buffer {
 public:
  uint8_t* at_least(size_t bytes) {
    if (bytes > size_) {
      memory_ = std::make_unique_for_overwrite<uint8_t[]>(bytes);
      size_ = bytes;
    }
    return memory_.get();
  }

 private:
  std::unique_ptr<uint8_t[]> memory_;
  size_t size_ = 0;
};

struct FreeDecompressor {
  void operator()(libdeflate_decompressor* decompressor) const { libdeflate_free_decompressor(decompressor); }
};

// Deflate never grows data more than this.
constexpr size_t kLargestRatio = 1032;

// All scanlines, each a filter type and its bytes; nullptr where the stream is damaged or of another length.
uint8_t* inflate(const PngLayout& layout) {
  thread_local Buffer packed_buffer, raw_buffer;
  thread_local const std::unique_ptr<libdeflate_decompressor, FreeDecompressor> decompressor(libdeflate_alloc_decompressor());
  if (!decompressor) return nullptr;
  size_t packed_size = 0;
  for (const std::string_view part : layout.data) packed_size += part.size();
  const auto raw_size = static_cast<size_t>(layout.height * (layout.width * layout.channels + 1));
  if (raw_size / kLargestRatio > packed_size) return nullptr;  // a header that lies must not cost memory

  std::string_view packed = layout.data.front();
  if (layout.data.size() > 1) {
    uint8_t* to = packed_buffer.at_least(packed_size);
    packed = {reinterpret_cast<char*>(to), packed_size};
    for (const std::string_view part : layout.data) {
      std::memcpy(to, part.data(), part.size());
      to += part.size();
    }
  }
  uint8_t* raw = raw_buffer.at_least(raw_size + 4);  // pixels of three bytes are read as four
  const auto result =
      libdeflate_zlib_decompress(decompressor.get(), packed.data(), packed.size(), raw, raw_size, /*actual_out=*/nullptr);
  return result == LIBDEFLATE_SUCCESS ? raw : nullptr;
}

// PNG specification, 9.4: the neighbour closest to left + up - corner; ties go to the left one, then to the upper one.
uint8_t paeth(int left, int up, int corner) {
  const int to_left = std::abs(up - corner), to_up = std::abs(left - corner), to_corner = std::abs(left + up - 2 * corner);
  if (to_left <= to_up && to_left <= to_corner) return static_cast<uint8_t>(left);
  return static_cast<uint8_t>(to_up <= to_corner ? up : corner);
}

// The filters of section 9, undone in place in a row of `bytes` bytes below the finished row `up`, for pixels of N bytes.
template <int N>
void undo_sub(uint8_t* row, int64_t bytes) {
  for (int64_t i = N; i < bytes; ++i) row[i] = static_cast<uint8_t>(row[i] + row[i - N]);
}

void undo_up(uint8_t* row, const uint8_t* up, int64_t bytes) {
  for (int64_t i = 0; i < bytes; ++i) row[i] = static_cast<uint8_t>(row[i] + up[i]);
}

template <int N>
void undo_average(uint8_t* row, const uint8_t* up, int64_t bytes) {
  for (int64_t i = 0; i < N; ++i) row[i] = static_cast<uint8_t>(row[i] + up[i] / 2);
  for (int64_t i = N; i < bytes; ++i) row[i] = static_cast<uint8_t>(row[i] + (row[i - N] + up[i]) / 2);
}

// Of the bytes [begin, end) of the row.
template <int N>
void undo_paeth(uint8_t* row, const uint8_t* up, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const int left = i < N ? 0 : row[i - N], corner = i < N ? 0 : up[i - N];
    row[i] = static_cast<uint8_t>(row[i] + paeth(left, up[i], corner));
  }
}

template <int N>
void undo_paeth(uint8_t* row, const uint8_t* up, int64_t bytes) {
  undo_paeth<N>(row, up, 0, bytes);
}

#ifdef __SSE2__

// The same for the channels of a pixel at once; each pixel needs the one before, so there is no more to have at once.
__m128i load_pixel(const uint8_t* from) {
  int value;
  std::memcpy(&value, from, 4);  // of three channels the fourth byte belongs to the next pixel and is never stored
  return _mm_cvtsi32_si128(value);
}

template <int N>
void store_pixel(uint8_t* to, __m128i pixel) {
  const int value = _mm_cvtsi128_si32(pixel);
  std::memcpy(to, &value, N);
}

template <int N>
void undo_sub_sse2(uint8_t* row, int64_t bytes) {
  __m128i left = _mm_setzero_si128();
  for (int64_t i = 0; i < bytes; i += N) {
    left = _mm_add_epi8(load_pixel(row + i), left);
    store_pixel<N>(row + i, left);
  }
}

template <int N>
void undo_average_sse2(uint8_t* row, const uint8_t* up, int64_t bytes) {
  const __m128i one = _mm_set1_epi8(1);
  __m128i left = _mm_setzero_si128();
  for (int64_t i = 0; i < bytes; i += N) {
    const __m128i above = load_pixel(up + i);
    // _mm_avg_epu8 rounds up: where the sum is odd it is one more than the mean that PNG takes.
    const __m128i odd = _mm_and_si128(_mm_xor_si128(left, above), one);
    left = _mm_add_epi8(load_pixel(row + i), _mm_sub_epi8(_mm_avg_epu8(left, above), odd));
    store_pixel<N>(row + i, left);
  }
}

__m128i absolute(__m128i value) { return _mm_max_epi16(value, _mm_sub_epi16(_mm_setzero_si128(), value)); }

__m128i select(__m128i mask, __m128i yes, __m128i no) {
  return _mm_or_si128(_mm_and_si128(mask, yes), _mm_andnot_si128(mask, no));
}

// The neighbour that predicts, of 16-bit channels.
__m128i paeth(__m128i left, __m128i above, __m128i corner) {
  const __m128i up_step = _mm_sub_epi16(above, corner), left_step = _mm_sub_epi16(left, corner);
  const __m128i to_left = absolute(up_step), to_up = absolute(left_step);
  const __m128i to_corner = absolute(_mm_add_epi16(up_step, left_step));
  const __m128i least = _mm_min_epi16(to_corner, _mm_min_epi16(to_left, to_up));
  return select(_mm_cmpeq_epi16(least, to_left), left, select(_mm_cmpeq_epi16(least, to_up), above, corner));
}

template <int N>
void undo_paeth_sse2(uint8_t* row, const uint8_t* up, int64_t bytes) {
  const __m128i zero = _mm_setzero_si128();
  __m128i left = zero, corner = zero;  // 16 bits a channel
  for (int64_t i = 0; i < bytes; i += N) {
    const __m128i above = _mm_unpacklo_epi8(load_pixel(up + i), zero);
    // Adding bytes wraps as the filter wants, and leaves the upper bytes 0.
    left = _mm_add_epi8(_mm_unpacklo_epi8(load_pixel(row + i), zero), paeth(left, above, corner));
    corner = above;
    store_pixel<N>(row + i, _mm_packus_epi16(left, left));
  }
}

// Four rows with this filter at once: each follows the one above it at a distance of one pixel, which makes the four pixels in
// work independent. REQUIRES: at least four pixels a row.
template <int N>
void undo_four_paeth_rows(uint8_t* const (&row)[4], const uint8_t* up, int64_t bytes) {
  for (int64_t r = 0; r < 3; ++r) undo_paeth<N>(row[r], r == 0 ? up : row[r - 1], 0, (3 - r) * N);

  const __m128i zero = _mm_setzero_si128();
  const auto wide_pair = [&](const uint8_t* a, const uint8_t* b) {
    return _mm_unpacklo_epi8(_mm_unpacklo_epi32(load_pixel(a), load_pixel(b)), zero);
  };
  // Rows 0 and 1, rows 2 and 3.
  __m128i left01 = wide_pair(row[0] + 2 * N, row[1] + N);
  __m128i left23 = _mm_move_epi64(wide_pair(row[2], row[2]));  // row 3 is at its first pixel, which has none to its left
  __m128i corner01 = wide_pair(up + 2 * N, row[0] + N);
  __m128i corner23 = _mm_move_epi64(wide_pair(row[1], row[1]));
  for (int64_t i = 3 * N; i < bytes; i += N) {
    const __m128i above01 = _mm_unpacklo_epi64(_mm_unpacklo_epi8(load_pixel(up + i), zero), left01);
    const __m128i above23 =
        _mm_castpd_si128(_mm_shuffle_pd(_mm_castsi128_pd(left01), _mm_castsi128_pd(left23), 0b01));  // row 1, row 2
    left01 = _mm_add_epi8(wide_pair(row[0] + i, row[1] + i - N), paeth(left01, above01, corner01));
    left23 = _mm_add_epi8(wide_pair(row[2] + i - 2 * N, row[3] + i - 3 * N), paeth(left23, above23, corner23));
    corner01 = above01;
    corner23 = above23;
    const __m128i pixels = _mm_packus_epi16(left01, left23);
    store_pixel<N>(row[0] + i, pixels);
    store_pixel<N>(row[1] + i - N, _mm_srli_si128(pixels, 4));
    store_pixel<N>(row[2] + i - 2 * N, _mm_srli_si128(pixels, 8));
    store_pixel<N>(row[3] + i - 3 * N, _mm_srli_si128(pixels, 12));
  }
  for (int64_t r = 1; r < 4; ++r) undo_paeth<N>(row[r], row[r - 1], bytes - r * N, bytes);
}

// Four rows from `first` on, `stride` bytes apart; false where they are none to take together.
template <int N>
bool undo_four_rows(uint8_t* first, const uint8_t* up, int64_t stride, int64_t bytes) {
  if (N == 1 || bytes < 4 * N) return false;
  uint8_t* const row[4] = {first, first + stride, first + 2 * stride, first + 3 * stride};
  for (const uint8_t* each : row)
    if (each[-1] != 4) return false;
  undo_four_paeth_rows<N>(row, up, bytes);
  return true;
}

template <>
void undo_sub<3>(uint8_t* row, int64_t bytes) {
  undo_sub_sse2<3>(row, bytes);
}
template <>
void undo_sub<4>(uint8_t* row, int64_t bytes) {
  undo_sub_sse2<4>(row, bytes);
}
template <>
void undo_average<3>(uint8_t* row, const uint8_t* up, int64_t bytes) {
  undo_average_sse2<3>(row, up, bytes);
}
template <>
void undo_average<4>(uint8_t* row, const uint8_t* up, int64_t bytes) {
  undo_average_sse2<4>(row, up, bytes);
}
template <>
void undo_paeth<3>(uint8_t* row, const uint8_t* up, int64_t bytes) {
  undo_paeth_sse2<3>(row, up, bytes);
}
template <>
void undo_paeth<4>(uint8_t* row, const uint8_t* up, int64_t bytes) {
  undo_paeth_sse2<4>(row, up, bytes);
}

#else

template <int N>
bool undo_four_rows(uint8_t*, const uint8_t*, int64_t, int64_t) {
  return false;
}

#endif

template <int N>
void undo_filter(int filter, uint8_t* row, const uint8_t* up, int64_t bytes) {
  switch (filter) {
    case 1:
      return undo_sub<N>(row, bytes);
    case 2:
      return undo_up(row, up, bytes);
    case 3:
      return undo_average<N>(row, up, bytes);
    case 4:
      return undo_paeth<N>(row, up, bytes);
    default:
      return;
  }
}

template <int N>
void undo_filters(uint8_t* raw, int64_t stride, int64_t rows, int64_t columns, uint8_t* out) {
  const int64_t bytes = N * columns;
  const std::vector<uint8_t> above_first(static_cast<size_t>(bytes) + 4, 0);
  const uint8_t* up = above_first.data();
  for (int64_t y = 0; y < rows;) {
    uint8_t* row = raw + y * stride + 1;
    const bool four = rows - y >= 4 && undo_four_rows<N>(row, up, stride, bytes);
    if (!four) undo_filter<N>(row[-1], row, up, bytes);
    const int64_t done = four ? 4 : 1;
    for (int64_t r = 0; r < done; ++r) std::memcpy(out + (y + r) * bytes, row + r * stride, static_cast<size_t>(bytes));
    y += done;
    up = row + (done - 1) * stride;
  }
}

}  // namespace

bool decode_plain_png(const PngLayout& layout, int64_t rows, int64_t columns, uint8_t* out) {
  uint8_t* raw = inflate(layout);
  if (raw == nullptr) return false;
  const int64_t stride = layout.width * layout.channels + 1;
  for (int64_t y = 0; y < layout.height; ++y)
    if (raw[y * stride] > 4) return false;
  switch (layout.channels) {
    case 1:
      undo_filters<1>(raw, stride, rows, columns, out);
      return true;
    case 3:
      undo_filters<3>(raw, stride, rows, columns, out);
      return true;
    case 4:
      undo_filters<4>(raw, stride, rows, columns, out);
      return true;
    default:
      return false;
  }
}

}  // namespace semiseg
