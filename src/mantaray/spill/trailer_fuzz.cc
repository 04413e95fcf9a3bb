// libFuzzer target: no bytes make the parsers crash, read out of bounds or accept what is not exactly theirs.

#include <cstdint>
#include <cstdlib>
#include <string>

#include "mantaray/spill/format.h"
#include "mantaray/spill/names.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mantaray::spill;
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  if (const auto trailer = ParseTrailer(bytes); trailer.ok()) {
    const TrailerBytes again = EncodeTrailer(*trailer);
    if (bytes.compare(0, kTrailerBytes, again.data(), kTrailerBytes) != 0) std::abort();
  }
  if (const auto lengths = ParseLengths(bytes, size); lengths.ok() && lengths->object_bytes() != size) std::abort();
  if (const auto link = ParseLinkName(bytes); link && !ParseLinkName(FormatLinkName(*link))) std::abort();
  if (const auto url = ParseUrl(bytes); url.ok() && url->path.empty()) std::abort();
  return 0;
}
