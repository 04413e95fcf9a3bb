// libFuzzer target: no bytes on any stream make the relay crash, read out of bounds, or write what a GCS dies of.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "mantaray/syncer/relay_core.h"

namespace {

using namespace mantaray;
using namespace mantaray::syncer;

struct FuzzPeer : Peer {
  void WriteReady() override {}
  void Close(const absl::Status& status) override {
    if (status.ok()) std::abort();
  }
};

NodeId Node(char fill) {
  NodeId id;
  id.bytes.fill(fill);
  return id;
}

void Require(bool condition) {
  if (!condition) std::abort();
}

// Whatever leaves is something that Ray can read.
void CheckFrame(const Frame& frame) {
  const std::string bytes = frame.Flatten();
  Require(bytes.size() == frame.size_bytes && !bytes.empty());
  const auto split = Split(bytes, {});
  Require(split.ok() && split->messages.size() == frame.messages);
  for (const std::string_view part : split->messages) {
    const auto message = ParseMessage(part, {});
    Require(message.ok() && CheckPayload(message->type, message->payload, {}).ok());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  VirtualClock clock;
  RelayOptions options;
  options.node_id = Node('r');
  options.noise.enabled = true;
  options.max_nodes = 50;
  options.downward = {.window_ms = 5, .max_batch_messages = 3};
  options.grace_ms = 20;
  options.digest_ms = 10;
  options.replay_ms = 10;
  RelayCore core(options, &clock);
  FuzzPeer peer;
  std::vector<StreamId> streams(4, kNoStream);
  StreamId up = kNoStream;
  const auto drain = [&](StreamId stream, bool is_upstream) {
    while (const auto frame = core.Take(stream)) {
      CheckFrame(*frame);
      Require(!is_upstream || frame->messages > 0);
    }
  };
  // Operations of two bytes and, for messages, a length and that many bytes.
  for (size_t at = 0; at + 2 < size;) {
    const uint8_t operation = data[at] % 8;
    const size_t which = data[at + 1] % streams.size();
    size_t length = std::min<size_t>(data[at + 2] * 2, size - at - 3);
    const std::string bytes(reinterpret_cast<const char*>(data) + at + 3, operation >= 4 ? length : 0);
    at += 3 + bytes.size();
    switch (operation) {
      case 0: {
        StreamMetadata metadata = {{"node_id", Node(static_cast<char>('a' + which)).Hex()}};
        if (which == 3) metadata.emplace_back("mantaray-relay", std::string(16, 'd'));
        if (const auto stream = core.AddDownstream(metadata, &peer); stream.ok()) streams[which] = *stream;
        break;
      }
      case 1:
        core.RemoveDownstream(streams[which]);
        break;
      case 2:
        if (const auto stream = core.UpstreamConnected({}, &peer); stream.ok()) up = *stream;
        break;
      case 3:
        clock.AdvanceMs(static_cast<int64_t>(which) * 7);
        core.Tick();
        Require(core.NextDeadlineMs() > clock.NowMs() - 1);
        break;
      case 4:
      case 5:
        core.OnDownstreamBytes(streams[which], bytes);
        break;
      case 6:
        core.OnUpstreamBytes(up, bytes);
        break;
      default: {
        StreamMetadata metadata = {{"node_id", bytes.substr(0, bytes.size() / 2)}, {"mantaray-relay-below", bytes}};
        if (const auto stream = core.AddDownstream(metadata, &peer); stream.ok()) streams[which] = *stream;
      }
    }
    if (which == 0) {
      for (const StreamId stream : streams) drain(stream, false);
      drain(up, true);
    }
    Require(core.view().size() <= options.max_nodes);
  }
  return 0;
}
