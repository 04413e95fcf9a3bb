// See gcs_model.h.

#include "mantaray/sim/gcs_model.h"

#include <utility>

#include "mantaray/sim/sync_decoder.h"

namespace mantaray::sim {
namespace {

constexpr size_t kNodeIdBytes = 28;
constexpr uint64_t kViewType = 0;
constexpr uint64_t kCommandType = 1;

}  // namespace

std::optional<uint32_t> GcsModel::Open(uint32_t stream, uint32_t who) {
  std::optional<uint32_t> ended;
  for (const auto& [other, old] : streams_) {
    if (old.who == who) ended = other;
  }
  if (ended) End(*ended);
  Stream opened;
  opened.who = who;
  for (const auto& [node, entry] : views_) {
    if (node != who) opened.views_due.insert(node);
  }
  for (const auto& [node, entry] : commands_) {
    if (node != who) opened.commands_due.push_back(entry.message);
  }
  streams_.emplace(stream, std::move(opened));
  return ended;
}

void GcsModel::End(uint32_t stream) {
  const auto found = streams_.find(stream);
  if (found == streams_.end()) return;
  views_.erase(found->second.who);
  commands_.erase(found->second.who);
  streams_.erase(found);
}

std::string GcsModel::Receive(uint32_t stream, std::string_view bytes, std::vector<uint32_t>* ready) {
  const DecodedFrame frame = DecodeSyncFrame(bytes);
  if (bytes.empty() || frame.messages.empty()) return "the GCS gets an empty frame, of which it dies";
  if (!frame.well_formed) return "the GCS gets a frame that is not well-formed, of which it dies";
  if (frame.is_batch == bare_) return "the GCS gets a frame in a dialect of which it dies";
  for (const DecodedMessage& message : frame.messages) {
    if (message.node_id.size() != kNodeIdBytes) return "the GCS gets a node id of the wrong length, of which it dies";
    if (message.type > kCommandType) return "the GCS gets a message of a type that it does not know";
    ++messages_in_;
    const uint32_t node = index_of_(message.node_id);
    const bool is_view = message.type == kViewType;
    Entry& entry = is_view ? views_[node] : commands_[node];
    if (message.version <= entry.version) continue;
    entry.version = message.version;
    entry.message = std::string(message.bytes);
    for (auto& [id, other] : streams_) {
      if (id == stream || other.who == node) continue;
      if (is_view) {
        other.views_due.insert(node);
      } else {
        other.commands_due.push_back(entry.message);
      }
      ready->push_back(id);
    }
  }
  return "";
}

std::vector<std::string> GcsModel::Take(uint32_t stream) {
  std::vector<std::string> messages;
  const auto found = streams_.find(stream);
  if (found == streams_.end()) return messages;
  Stream& taker = found->second;
  while (!taker.commands_due.empty() && (!bare_ || messages.empty())) {
    messages.push_back(std::move(taker.commands_due.front()));
    taker.commands_due.pop_front();
  }
  while (!taker.views_due.empty() && (!bare_ || messages.empty())) {
    const uint32_t node = *taker.views_due.begin();
    taker.views_due.erase(taker.views_due.begin());
    const auto entry = views_.find(node);
    if (entry != views_.end() && entry->second.version > 0) messages.push_back(entry->second.message);
  }
  messages_out_ += messages.size();
  return messages;
}

std::vector<uint32_t> GcsModel::Restart() {
  std::vector<uint32_t> ended;
  for (const auto& [id, stream] : streams_) ended.push_back(id);
  streams_.clear();
  views_.clear();
  commands_.clear();
  return ended;
}

uint32_t GcsModel::VersionOf(uint32_t node) const {
  const auto entry = views_.find(node);
  return entry == views_.end() ? 0 : static_cast<uint32_t>(entry->second.version);
}

}  // namespace mantaray::sim
