// CRC32C: hardware path, portable path and combination. The arithmetic is over GF(2)[x] modulo the Castagnoli
// polynomial with bits reflected: bit 31 of a word is the coefficient of x^0.

#include "mantaray/common/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mantaray {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;  // reflected
constexpr uint32_t kOne = 0x80000000;         // x^0

// a * b modulo the polynomial.
constexpr uint32_t MultiplyModP(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = kOne; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b & 1) != 0 ? (b >> 1) ^ kPolynomial : b >> 1;
  }
  return product;
}

// base^exponent modulo the polynomial.
constexpr uint32_t PowerModP(uint32_t base, uint64_t exponent) {
  uint32_t result = kOne;
  for (; exponent != 0; exponent >>= 1) {
    if ((exponent & 1) != 0) result = MultiplyModP(result, base);
    base = MultiplyModP(base, base);
  }
  return result;
}

// x^(8 * size) modulo the polynomial. Appending `size` zero bytes multiplies a remainder by it.
constexpr uint32_t ShiftOperator(uint64_t size_bytes) { return PowerModP(kOne >> 8, size_bytes); }

using ByteTable = std::array<uint32_t, 256>;

constexpr std::array<ByteTable, 8> MakeSlicingTables() {
  std::array<ByteTable, 8> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) {
      remainder = (remainder & 1) != 0 ? (remainder >> 1) ^ kPolynomial : remainder >> 1;
    }
    tables[0][byte] = remainder;
  }
  for (size_t slice = 1; slice < tables.size(); ++slice) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t previous = tables[slice - 1][byte];
      tables[slice][byte] = (previous >> 8) ^ tables[0][previous & 0xFF];
    }
  }
  return tables;
}

constexpr std::array<ByteTable, 8> kSlicing = MakeSlicingTables();

uint64_t LoadLittleEndian64(const unsigned char* data) {
  uint64_t word = 0;
  std::memcpy(&word, data, sizeof(word));
  return word;
}

#if defined(__x86_64__)

// Multiplication by a fixed operator as four table look-ups.
using ShiftTable = std::array<ByteTable, 4>;

constexpr ShiftTable MakeShiftTable(uint64_t size_bytes) {
  ShiftTable table{};
  const uint32_t shift = ShiftOperator(size_bytes);
  // Products with single bits first; every other entry is a sum of those (multiplication is linear).
  for (size_t part = 0; part < 4; ++part) {
    for (size_t bit = 0; bit < 8; ++bit) {
      table[part][size_t{1} << bit] = MultiplyModP(shift, uint32_t{1} << (8 * part + bit));
    }
    for (size_t byte = 1; byte < 256; ++byte) {
      const size_t low = byte & (~byte + 1);
      if (low != byte) table[part][byte] = table[part][low] ^ table[part][byte ^ low];
    }
  }
  return table;
}

constexpr size_t kLongStream = 4096;
constexpr size_t kShortStream = 256;
constexpr ShiftTable kShiftLong = MakeShiftTable(kLongStream);
constexpr ShiftTable kShiftShort = MakeShiftTable(kShortStream);

uint32_t Shift(const ShiftTable& table, uint32_t crc) {
  return table[0][crc & 0xFF] ^ table[1][(crc >> 8) & 0xFF] ^ table[2][(crc >> 16) & 0xFF] ^ table[3][crc >> 24];
}

// Consumes 3 * stream bytes at a time, and returns where it stopped.
__attribute__((target("crc32,sse4.2"))) const unsigned char* ThreeStreams(const unsigned char* data, size_t* size,
                                                                          size_t stream, const ShiftTable& shift,
                                                                          uint64_t* crc) {
  while (*size >= 3 * stream) {
    uint64_t a = *crc;
    uint64_t b = 0;
    uint64_t c = 0;
    for (size_t i = 0; i < stream; i += 8) {
      a = _mm_crc32_u64(a, LoadLittleEndian64(data + i));
      b = _mm_crc32_u64(b, LoadLittleEndian64(data + stream + i));
      c = _mm_crc32_u64(c, LoadLittleEndian64(data + 2 * stream + i));
    }
    const uint32_t ab = Shift(shift, static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b);
    *crc = Shift(shift, ab) ^ static_cast<uint32_t>(c);
    data += 3 * stream;
    *size -= 3 * stream;
  }
  return data;
}

// Folding: a 128-bit lane stands for a remainder that is `distance` bits in front of other data. Carried forward onto
// that data, its earlier half is multiplied by x^(distance + 32) and its later half by x^(distance - 32), both modulo
// the polynomial; the products fit the lane. A product of reflected words comes out one bit too low, hence the shift.
constexpr long long Carry(uint64_t power) { return static_cast<long long>(PowerModP(kOne >> 1, power)) << 1; }

#define MANTARAY_FOLDING __attribute__((target("avx512f,avx512vl,avx512dq,vpclmulqdq,pclmul,crc32,sse4.2")))

template <uint64_t kDistance>
MANTARAY_FOLDING inline __m512i Fold(__m512i lanes, __m512i onto) {
  const __m512i carries =
      _mm512_set_epi64(Carry(kDistance - 32), Carry(kDistance + 32), Carry(kDistance - 32), Carry(kDistance + 32),
                       Carry(kDistance - 32), Carry(kDistance + 32), Carry(kDistance - 32), Carry(kDistance + 32));
  const __m512i early = _mm512_clmulepi64_epi128(lanes, carries, 0x00);
  const __m512i late = _mm512_clmulepi64_epi128(lanes, carries, 0x11);
  return _mm512_xor_si512(_mm512_xor_si512(early, late), onto);
}

MANTARAY_FOLDING inline __m128i FoldLane(__m128i lane, __m128i onto) {
  const __m128i carries = _mm_set_epi64x(Carry(128 - 32), Carry(128 + 32));
  const __m128i early = _mm_clmulepi64_si128(lane, carries, 0x00);
  const __m128i late = _mm_clmulepi64_si128(lane, carries, 0x11);
  return _mm_xor_si128(_mm_xor_si128(early, late), onto);
}

// (Without the struct, the vector's attributes would be lost as a template's argument.)
struct FourLanes {
  __m512i bits;
};
constexpr size_t kFoldedStep = 4 * sizeof(FourLanes);

bool HasFolding() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("vpclmulqdq") != 0 &&
         __builtin_cpu_supports("pclmul") != 0;
}

// Consumes all whole steps of at least one; returns where it stopped.
MANTARAY_FOLDING const unsigned char* Folded(const unsigned char* data, size_t* size, uint64_t* crc) {
  std::array<FourLanes, 4> lanes;
  for (size_t i = 0; i < lanes.size(); ++i) lanes[i].bits = _mm512_loadu_si512(data + i * sizeof(FourLanes));
  lanes[0].bits = _mm512_xor_si512(lanes[0].bits, _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(*crc))));
  for (data += kFoldedStep, *size -= kFoldedStep; *size >= kFoldedStep; data += kFoldedStep, *size -= kFoldedStep) {
    for (size_t i = 0; i < lanes.size(); ++i) {
      lanes[i].bits = Fold<8 * kFoldedStep>(lanes[i].bits, _mm512_loadu_si512(data + i * sizeof(FourLanes)));
    }
  }
  __m512i sum = lanes[0].bits;
  for (size_t i = 1; i < lanes.size(); ++i) sum = Fold<512>(sum, lanes[i].bits);
  __m128i lane = FoldLane(_mm512_extracti64x2_epi64(sum, 0), _mm512_extracti64x2_epi64(sum, 1));
  lane = FoldLane(lane, _mm512_extracti64x2_epi64(sum, 2));
  lane = FoldLane(lane, _mm512_extracti64x2_epi64(sum, 3));
  // The lane is now a message of 16 bytes with the same remainder.
  *crc = _mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(lane)));
  *crc = _mm_crc32_u64(*crc, static_cast<uint64_t>(_mm_extract_epi64(lane, 1)));
  return data;
}

__attribute__((target("crc32,sse4.2"))) uint32_t ExtendHardware(uint32_t crc, const unsigned char* data, size_t size) {
  static const bool kHasFolding = HasFolding();
  uint64_t state = static_cast<uint32_t>(~crc);
  if (kHasFolding && size >= kFoldedStep) data = Folded(data, &size, &state);
  data = ThreeStreams(data, &size, kLongStream, kShiftLong, &state);
  data = ThreeStreams(data, &size, kShortStream, kShiftShort, &state);
  for (; size >= 8; size -= 8, data += 8) state = _mm_crc32_u64(state, LoadLittleEndian64(data));
  auto narrow = static_cast<uint32_t>(state);
  for (; size > 0; --size, ++data) narrow = _mm_crc32_u8(narrow, *data);
  return ~narrow;
}

#endif  // defined(__x86_64__)

}  // namespace

uint32_t Crc32cExtendPortable(uint32_t crc, const void* data, size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  uint32_t state = ~crc;
  for (; size >= 8; size -= 8, bytes += 8) {
    uint64_t word = state;
    for (int i = 0; i < 8; ++i) word ^= uint64_t{bytes[i]} << (8 * i);
    state = 0;
    for (size_t i = 0; i < 8; ++i) state ^= kSlicing[7 - i][(word >> (8 * i)) & 0xFF];
  }
  for (; size > 0; --size, ++bytes) state = (state >> 8) ^ kSlicing[0][(state ^ *bytes) & 0xFF];
  return ~state;
}

uint32_t Crc32cExtend(uint32_t crc, const void* data, size_t size) {
#if defined(__x86_64__)
  static const bool kHasInstruction = __builtin_cpu_supports("sse4.2") != 0;
  if (kHasInstruction) return ExtendHardware(crc, static_cast<const unsigned char*>(data), size);
#endif
  return Crc32cExtendPortable(crc, data, size);
}

uint32_t Crc32cCombine(uint32_t crc_a, uint32_t crc_b, uint64_t size_b) {
  return MultiplyModP(ShiftOperator(size_b), crc_a) ^ crc_b;
}

}  // namespace mantaray
