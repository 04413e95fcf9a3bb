// libFuzzer target: no bytes on any stream make the relay crash, read out of bounds, or write what a GCS dies of.
//
// `relay_fuzz --write-seeds=DIRECTORY` writes well-formed sessions to start from, of both dialects, and ends: bytes
// that are only random never get as far as the view. How many messages got in and out is told at the end of a run, and
// a run of any length in which one of the ways was never taken has failed.

#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
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

// --- What a run came to

enum Way : uint8_t { kFromBelow, kFromAbove, kOut, kWays };
constexpr std::array<const char*, kWays> kWayNames = {"from below", "from above", "out"};
constexpr uint64_t kInputsOfARun = 1'000;  // fewer than these are an input that is tried again

struct Tally {
  uint64_t inputs = 0;
  std::array<std::array<uint64_t, 2>, kWays> messages{};  // that were taken, or written: bare, in batches

  void Count(Way way, std::string_view frame, uint64_t count) {
    messages[way][DialectOf(frame) == Dialect::kBatch ? 1 : 0] += count;
  }
};

Tally tally;

void TellTally() {
  bool all = true;
  std::fprintf(stderr, "relay_fuzz: %llu inputs; messages", static_cast<unsigned long long>(tally.inputs));
  for (size_t way = 0; way < kWays; ++way) {
    const auto [bare, batch] = tally.messages[way];
    std::fprintf(stderr, "%s %s %llu bare and %llu in batches", way == 0 ? "" : ",", kWayNames[way],
                 static_cast<unsigned long long>(bare), static_cast<unsigned long long>(batch));
    all = all && bare > 0 && batch > 0;
  }
  std::fprintf(stderr, "\n");
  if (all || tally.inputs < kInputsOfARun) return;
  std::fprintf(stderr, "relay_fuzz: FAILED, nothing went some of these ways; was it given its seeds?\n");
  _exit(1);
}

// Messages that have been believed: they changed the view.
uint64_t Believed(const RelayCore& core) {
  const RelayMetrics& seen = core.metrics();
  return seen.messages_in - seen.stale - seen.echoes - seen.contended - seen.dead_dropped;
}

// Whatever leaves is something that Ray can read.
void CheckFrame(const Frame& frame) {
  const std::string bytes = frame.Flatten();
  Require(bytes.size() == frame.size_bytes && !bytes.empty());
  const auto split = Split(bytes, {});
  Require(split.ok() && split->messages.size() == frame.messages);
  for (const std::string_view part : split->messages) {
    const auto message = ParseMessage(part, {});
    Require(message.ok() && CheckPayload(message->type, message->payload).ok());
  }
  tally.Count(kOut, bytes, frame.messages);
}

// --- Seeds: sessions in the format of LLVMFuzzerTestOneInput

enum Operation : uint8_t { kConnect, kLeave, kConnectUpstream, kAdvance, kSay, kSayToo, kUpstreamSays };

constexpr char kRelay = 3;  // the stream that is a relay's

std::string Do(Operation operation, char which, std::string bytes = "") {
  // Lengths are told in pairs of bytes. An unknown field, of a message or of a batch, makes one even.
  if (bytes.size() % 2 == 1) bytes += std::string("\x7a\x01x");
  Require(bytes.size() / 2 <= UINT8_MAX);
  return std::string{static_cast<char>(operation), which, static_cast<char>(bytes.size() / 2)} + bytes;
}

// Time passes, then everybody reads.
std::string Later() { return Do(kAdvance, 3) + Do(kAdvance, 0); }

std::string BytesField(char number, std::string_view bytes) {
  std::string field(1, static_cast<char>(number << 3 | 2));
  AppendVarint(bytes.size(), &field);
  return field.append(bytes);
}

// Of a node that has all of its one resource, or none.
std::string View(char node, int64_t version, std::string_view resource, bool available) {
  const std::string amount = available ? std::string("\x11\0\0\0\0\0\0\xf0\x3f", 9) : "";
  const std::string total = BytesField(1, resource) + std::string("\x11\0\0\0\0\0\0\xf0\x3f", 9);
  const std::string payload = BytesField(1, BytesField(1, resource) + amount) + BytesField(2, total);
  return EncodeMessage(version, MessageType::kResourceView, Node(node), payload);
}

std::string Command(char node, int64_t version) {
  return EncodeMessage(version, MessageType::kCommands, Node(node), "\x08\x01");
}

std::string Batch(const std::vector<std::string>& messages) {
  std::string frame;
  for (const std::string& message : messages) AppendBatchEntry(message, &frame);
  return frame;
}

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  const std::string connected = Do(kConnect, 0) + Do(kConnect, 1) + Do(kConnectUpstream, 0);
  for (const bool batch : {false, true}) {
    const auto frame = [batch](const std::string& message) { return batch ? Batch({message}) : message; };
    const std::string upstream = Do(kUpstreamSays, 1, frame(View('x', 5, "CPU", true)));
    const std::string views =
        Do(kSay, 0, frame(View('a', 1, "CPU", true))) + Do(kSayToo, 1, frame(View('b', 1, "CPU", false)));
    const std::string newer = Do(kSay, 0, frame(View('a', 2, "CPU", false)));
    seeds.push_back(connected + upstream + views + Later() + newer + Later());
    seeds.push_back(connected + upstream + Do(kSay, 0, frame(Command('a', 1))) + Later() +
                    Do(kUpstreamSays, 1, frame(Command('x', 6))) + Later());
    // Stale, a node that leaves and comes back, noise.
    seeds.push_back(connected + upstream + newer + views + Do(kLeave, 0) + Later() + Later() + Do(kConnect, 0) + newer +
                    Later());
    const std::string_view store = "object_store_memory";
    seeds.push_back(connected + upstream + Do(kSay, 1, frame(View('b', 1, store, true))) + Later() +
                    Do(kSay, 1, frame(View('b', 2, store, true))) + Later());
  }
  const std::string many = Batch({View('a', 1, "CPU", true), View('b', 1, "GPU", true), Command('c', 1)});
  std::string talk = many;
  AppendRepairRequest(1, &talk);
  std::string complete = many;
  AppendCompleteBuckets(3, &complete);
  std::string digest;
  AppendRelayDigest(std::string(64, 'd'), &digest);
  const std::string relay = Do(kConnect, kRelay) + Do(kConnectUpstream, 0);
  seeds.push_back(relay + Do(kUpstreamSays, 1, many) + Do(kSay, kRelay, talk) + Later() + Do(kSay, kRelay, complete) +
                  Later());
  seeds.push_back(relay + Do(kSay, kRelay, many) + Do(kSay, kRelay, digest) + Later() + Do(kLeave, kRelay) + Later());
  return seeds;
}

void WriteSeeds(const std::string& directory) {
  size_t number = 0;
  for (const std::string& seed : Seeds()) {
    std::ofstream file(directory + "/seed-" + std::to_string(number++), std::ios::binary);
    file << seed;
    file.close();
    if (file.fail()) {
      std::fprintf(stderr, "relay_fuzz: cannot write into %s\n", directory.c_str());
      std::exit(1);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  constexpr std::string_view kWriteSeeds = "--write-seeds=";
  for (int at = 1; at < *argc; ++at) {
    const std::string_view argument = (*argv)[at];
    if (argument.substr(0, kWriteSeeds.size()) != kWriteSeeds) continue;
    WriteSeeds(std::string(argument.substr(kWriteSeeds.size())));
    std::exit(0);
  }
  std::atexit(TellTally);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ++tally.inputs;
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
    const std::string bytes(reinterpret_cast<const char*>(data) + at + 3, operation >= kSay ? length : 0);
    at += 3 + bytes.size();
    const uint64_t believed = Believed(core);
    switch (operation) {
      case kConnect: {
        StreamMetadata metadata = {{"node_id", Node(static_cast<char>('a' + which)).Hex()}};
        if (which == kRelay) metadata.emplace_back("mantaray-relay", std::string(16, 'd'));
        if (const auto stream = core.AddDownstream(metadata, &peer); stream.ok()) streams[which] = *stream;
        break;
      }
      case kLeave:
        core.RemoveDownstream(streams[which]);
        break;
      case kConnectUpstream:
        if (const auto stream = core.UpstreamConnected({}, &peer); stream.ok()) up = *stream;
        break;
      case kAdvance:
        clock.AdvanceMs(static_cast<int64_t>(which) * 7);
        core.Tick();
        Require(core.NextDeadlineMs() > clock.NowMs() - 1);
        break;
      case kSay:
      case kSayToo:
        core.OnDownstreamBytes(streams[which], bytes);
        tally.Count(kFromBelow, bytes, Believed(core) - believed);
        break;
      case kUpstreamSays:
        core.OnUpstreamBytes(up, bytes);
        tally.Count(kFromAbove, bytes, Believed(core) - believed);
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
