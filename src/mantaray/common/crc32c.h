// CRC32C (Castagnoli polynomial, RFC 3720 appendix B.4), the checksum of everything Mantaray writes to disk.
//
// The checksum is the finished one (initial value and final complement applied), so `Crc32c("123456789")` is
// 0xE3069283. Extending and combining work on finished values too:
//
//   Crc32cExtend(Crc32c(a), b) == Crc32c(a + b) == Crc32cCombine(Crc32c(a), Crc32c(b), b.size())
//
// On x86-64 with SSE 4.2 three independent streams hide the latency of the instruction, after "Fast CRC Computation
// for iSCSI Polynomial Using CRC32 Instruction" (Intel, 2011); with AVX-512 and VPCLMULQDQ, 256 bytes a step are folded
// after "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel, 2009). Elsewhere a table of
// eight bytes a step is used.
// Thread-safe.

#ifndef MANTARAY_COMMON_CRC32C_H_
#define MANTARAY_COMMON_CRC32C_H_

#include <cstddef>
#include <cstdint>

namespace mantaray {

// Checksum of bytes with the checksum `crc`, followed by the `size` bytes at `data`. `crc` 0 stands for no bytes.
uint32_t Crc32cExtend(uint32_t crc, const void* data, size_t size);

// Checksum of `size` bytes at `data`.
inline uint32_t Crc32c(const void* data, size_t size) { return Crc32cExtend(0, data, size); }

// Checksum of the concatenation of two byte strings, given only their checksums and the length of the second one.
uint32_t Crc32cCombine(uint32_t crc_a, uint32_t crc_b, uint64_t size_b);

// The portable implementation, with which tests compare the fast one.
uint32_t Crc32cExtendPortable(uint32_t crc, const void* data, size_t size);

}  // namespace mantaray

#endif  // MANTARAY_COMMON_CRC32C_H_
