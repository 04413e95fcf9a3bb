// libFuzzer target: no bytes make the parsers crash, read out of bounds or accept what is not exactly theirs.
//
// Each input is used twice. As it is, it seldom gets past a magic number or a checksum. So its bytes are also taken for
// the fields of a trailer, lengths, a link's name and a URL, which are written and parsed again: unchanged, they come
// back as they were; with one byte changed, they are refused or are what they now say. How often each was accepted is
// told at the end of a run, and a run of some length in which one never was has failed.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "mantaray/common/ids.h"
#include "mantaray/spill/format.h"
#include "mantaray/spill/names.h"

namespace {

using namespace mantaray;
using namespace mantaray::spill;

struct Tally {
  uint64_t inputs = 0;
  uint64_t trailers = 0;
  uint64_t lengths = 0;
  uint64_t links = 0;
  uint64_t urls = 0;
};

Tally tally;

void Require(bool holds) {
  if (!holds) std::abort();
}

// Hands out the input piece by piece; zeros after its end.
class Fields {
 public:
  explicit Fields(absl::string_view bytes) : bytes_(bytes) {}

  template <typename Value>
  Value Next() {
    Value value{};
    const size_t count = std::min(sizeof(value), bytes_.size());
    std::memcpy(&value, bytes_.data(), count);
    bytes_.remove_prefix(count);
    return value;
  }
  std::string Rest() const { return std::string(bytes_); }

 private:
  absl::string_view bytes_;
};

// Changes one byte, and says whether it did.
bool Damage(Fields* fields, char* bytes, size_t size) {
  const size_t at = fields->Next<uint16_t>() % size;
  const char change = fields->Next<char>();
  bytes[at] = static_cast<char>(bytes[at] ^ change);
  return change != 0;
}

void CheckAsItIs(const std::string& bytes) {
  if (const auto trailer = ParseTrailer(bytes); trailer.ok()) {
    const TrailerBytes again = EncodeTrailer(*trailer);
    Require(bytes.compare(0, kTrailerBytes, again.data(), kTrailerBytes) == 0);
  }
  if (const auto lengths = ParseLengths(bytes, bytes.size()); lengths.ok())
    Require(lengths->object_bytes() == bytes.size());
  if (const auto link = ParseLinkName(bytes)) Require(ParseLinkName(FormatLinkName(*link)).has_value());
  if (const auto url = ParseUrl(bytes); url.ok()) Require(!url->path.empty());
}

void CheckTrailer(Fields fields) {
  Trailer trailer;
  trailer.object_id = fields.Next<ObjectId>();
  trailer.offset = fields.Next<uint64_t>();
  trailer.header_bytes = fields.Next<uint64_t>() >> (fields.Next<uint8_t>() % 64);
  trailer.payload_bytes = fields.Next<uint64_t>() >> (fields.Next<uint8_t>() % 64);
  trailer.header_crc = fields.Next<uint32_t>();
  trailer.payload_crc = fields.Next<uint32_t>();
  TrailerBytes bytes = EncodeTrailer(trailer);
  const bool damaged = Damage(&fields, bytes.data(), bytes.size());
  const auto parsed = ParseTrailer(bytes);
  const bool sane = trailer.header_bytes >= kLengthsBytes && trailer.header_bytes <= kMaxObjectBytes &&
                    trailer.payload_bytes <= kMaxObjectBytes;
  // The checksum tells every change of one byte.
  Require(parsed.ok() == (sane && !damaged));
  if (!parsed.ok()) return;
  ++tally.trailers;
  Require(EncodeTrailer(*parsed) == bytes);
}

void CheckLengths(Fields fields) {
  const auto next = [&fields] { return fields.Next<uint64_t>() >> (fields.Next<uint8_t>() % 64); };
  const Lengths lengths{.address_bytes = next(), .metadata_bytes = next(), .payload_bytes = next()};
  auto bytes = EncodeLengths(lengths);
  Damage(&fields, bytes.data(), bytes.size());
  const auto parsed = ParseLengths(bytes, lengths.object_bytes());
  if (!parsed.ok()) return;
  ++tally.lengths;
  Require(parsed->object_bytes() == lengths.object_bytes() && EncodeLengths(*parsed) == bytes);
}

void CheckLinkName(Fields fields) {
  LinkName link;
  link.object_id = fields.Next<ObjectId>();
  link.offset = fields.Next<uint64_t>() / kBlockBytes * kBlockBytes;
  link.object_bytes = fields.Next<uint64_t>() % (kMaxObjectBytes + 1);
  link.damaged = (fields.Next<uint8_t>() & 1) != 0;
  std::string name = FormatLinkName(link);
  const bool damaged = Damage(&fields, name.data(), name.size());
  const auto parsed = ParseLinkName(name);
  Require(damaged || parsed.has_value());
  if (!parsed) return;
  ++tally.links;
  Require(parsed->offset % kBlockBytes == 0 && parsed->object_bytes <= kMaxObjectBytes);
  if (!damaged) Require(FormatLinkName(*parsed) == name);
}

void CheckUrl(Fields fields) {
  const auto offset = fields.Next<uint64_t>();
  const auto object_bytes = fields.Next<uint64_t>();
  const auto place = fields.Next<uint16_t>();
  const auto change = fields.Next<char>();
  const std::string path = "/" + fields.Rest();
  std::string url = FormatUrl(path, offset, object_bytes);
  char& byte = url[place % url.size()];
  byte = static_cast<char>(byte ^ change);
  const auto parsed = ParseUrl(url);
  Require(change != 0 || parsed.ok());
  if (!parsed.ok()) return;
  ++tally.urls;
  Require(!parsed->path.empty());
  if (change == 0) Require(parsed->path == path && parsed->offset == offset && parsed->object_bytes == object_bytes);
}

void TellTally() {
  std::printf("spill fuzz: %llu inputs; accepted: %llu trailers, %llu lengths, %llu link names, %llu URLs\n",
              static_cast<unsigned long long>(tally.inputs), static_cast<unsigned long long>(tally.trailers),
              static_cast<unsigned long long>(tally.lengths), static_cast<unsigned long long>(tally.links),
              static_cast<unsigned long long>(tally.urls));
  std::fflush(stdout);
  const bool each = tally.trailers > 0 && tally.lengths > 0 && tally.links > 0 && tally.urls > 0;
  if (tally.inputs >= 10'000 && !each) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  std::atexit(TellTally);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ++tally.inputs;
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  CheckAsItIs(bytes);
  CheckTrailer(Fields(bytes));
  CheckLengths(Fields(bytes));
  CheckLinkName(Fields(bytes));
  CheckUrl(Fields(bytes));
  return 0;
}
