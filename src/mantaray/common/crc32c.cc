// CRC32C: hardware path, portable path and combination. The arithmetic is over GF(2)[x] modulo the Castagnoli
// polynomial with bits reflected: bit 31 of a word is the coefficient of x^0.

#include "mantaray/common/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
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

// x^(8 * size) modulo the polynomial: what appending `size` zero bytes multiplies a remainder by.
constexpr uint32_t ShiftOperator(uint64_t size_bytes) {
  uint32_t result = kOne;
  uint32_t power = kOne >> 8;  // x^8
  for (; size_bytes != 0; size_bytes >>= 1) {
    if ((size_bytes & 1) != 0) result = MultiplyModP(result, power);
    power = MultiplyModP(power, power);
  }
  return result;
}

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

// Consumes 3 * stream bytes at a time; returns where it stopped.
__attribute__((target("sse4.2"))) const unsigned char* ThreeStreams(const unsigned char* data, size_t* size,
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

__attribute__((target("sse4.2"))) uint32_t ExtendHardware(uint32_t crc, const unsigned char* data, size_t size) {
  uint64_t state = ~crc;
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
