// See metadata.h.

#include "mantaray/relay/metadata.h"

#include <string_view>

namespace mantaray::relay {
namespace {

// Trees are a few levels deep.
constexpr size_t kMaxPathBytes = 1024;

std::string_view View(const grpc::string_ref& text) { return {text.data(), text.size()}; }

}  // namespace

bool IsCarried(const grpc::string_ref& key) {
  const std::string_view name = View(key);
  if (name.empty() || name[0] == ':') {
    return false;
  }
  if (name.starts_with("grpc-")) {
    return name == "grpc-trace-bin" || name == "grpc-tags-bin" || name == "grpc-previous-rpc-attempts";
  }
  for (const std::string_view own : {"user-agent", "te", "content-type", "content-length", "accept-encoding", "host"}) {
    if (name == own) {
      return false;
    }
  }
  return true;
}

void CopyClientMetadata(const ReceivedMetadata& from, grpc::ClientContext* to) {
  for (const auto& [key, value] : from) {
    if (IsCarried(key) && View(key) != kPathKey) {
      to->AddMetadata(ToString(key), ToString(value));
    }
  }
}

std::optional<std::string> PathWith(const ReceivedMetadata& received, const std::string& relay_id) {
  const auto found = received.find(kPathKey);
  if (found == received.end()) {
    return relay_id;
  }
  const std::string_view path = View(found->second);
  if (path.find(relay_id) != std::string_view::npos || path.size() > kMaxPathBytes) {
    return std::nullopt;
  }
  std::string longer(path);
  longer += ',';
  longer += relay_id;
  return longer;
}

}  // namespace mantaray::relay
