// What the sync service tells operators: metrics, and its state as JSON.

#include <string>
#include <string_view>
#include <utility>

#include "mantaray/relay/log.h"
#include "mantaray/relay/metrics.h"
#include "mantaray/relay/sync_service.h"

namespace mantaray::relay {
namespace {

constexpr std::string_view kPrefix = "mantaray_relay_sync_";

void Render(std::string_view name, std::string_view type, std::string_view help, double value, std::string* text) {
  const std::string full = std::string(kPrefix) + std::string(name);
  RenderHeader(full, type, help, text);
  RenderSample(full, "", value, text);
}

// A counter for each side and direction.
struct Traffic {
  std::string_view name;
  std::string_view help;
  uint64_t in;
  uint64_t out;
  uint64_t upstream_in;
  uint64_t upstream_out;
};

void Render(const Traffic& traffic, std::string* text) {
  const std::string full = std::string(kPrefix) + std::string(traffic.name);
  RenderHeader(full, "counter", traffic.help, text);
  const auto sample = [&](std::string_view labels, uint64_t value) {
    RenderSample(full, labels, static_cast<double>(value), text);
  };
  sample("{side=\"downstream\",direction=\"in\"}", traffic.in - traffic.upstream_in);
  sample("{side=\"downstream\",direction=\"out\"}", traffic.out - traffic.upstream_out);
  sample("{side=\"upstream\",direction=\"in\"}", traffic.upstream_in);
  sample("{side=\"upstream\",direction=\"out\"}", traffic.upstream_out);
}

void RenderDelay(const syncer::DelayHistogram& delay, std::string* text) {
  const std::string full = std::string(kPrefix) + "delay_seconds";
  RenderHeader(full, "histogram",
               "How long updates waited here, from their arrival until they were let go to all streams. "
               "What a slow reader has yet to take is in lag_ms and queued.",
               text);
  uint64_t total = 0;
  for (size_t i = 0; i < delay.counts.size(); ++i) {
    total += delay.counts[i];
    std::string bound = "+Inf";
    if (i < syncer::DelayHistogram::kBoundsMs.size()) {
      bound = std::to_string(static_cast<double>(syncer::DelayHistogram::kBoundsMs[i]) / 1e3);
    }
    RenderSample(full + "_bucket", "{le=\"" + bound + "\"}", static_cast<double>(total), text);
  }
  RenderSample(full + "_sum", "", static_cast<double>(delay.sum_ms) / 1e3, text);
  RenderSample(full + "_count", "", static_cast<double>(total), text);
}

// A JSON object, member by member.
class JsonObject {
 public:
  JsonObject& Text(std::string_view name, std::string_view value) { return Raw(name, JsonString(value)); }
  JsonObject& Number(std::string_view name, int64_t value) { return Raw(name, std::to_string(value)); }
  JsonObject& Flag(std::string_view name, bool value) { return Raw(name, value ? "true" : "false"); }
  JsonObject& Raw(std::string_view name, std::string_view value) {
    text_ += (text_.empty() ? "" : ",") + JsonString(name) + ":" + std::string(value);
    return *this;
  }
  std::string Close() const { return "{" + text_ + "}"; }

 private:
  std::string text_;
};

std::string_view DialectName(syncer::Dialect dialect) {
  switch (dialect) {
    case syncer::Dialect::kBare:
      return "bare";
    case syncer::Dialect::kBatch:
      return "batch";
    case syncer::Dialect::kUnknown:
      break;
  }
  return "unknown";
}

}  // namespace

std::string SyncService::RenderMetrics() const {
  const syncer::RelayMetrics& seen = core_.metrics();
  std::string text;
  const auto gauge = [&](std::string_view name, std::string_view help, size_t value) {
    Render(name, "gauge", help, static_cast<double>(value), &text);
  };
  const auto counter = [&](std::string_view name, std::string_view help, uint64_t value) {
    Render(name, "counter", help, static_cast<double>(value), &text);
  };
  gauge("nodes", "Nodes in the view, those beyond the upstream too.", core_.view().nodes().size());
  gauge("streams", "Downstream streams.", core_.downstream_streams());
  gauge("upstream_connected", "1 while the stream to the upstream stands.", core_.upstream_connected() ? 1 : 0);
  gauge("memory_bytes", "Bytes held for messages.", core_.MemoryBytes());
  size_t behind = 0;
  int64_t behind_ms = 0;
  for (const syncer::StreamStatus& stream : core_.Streams()) {
    behind += stream.behind;
    behind_ms = std::max(behind_ms, stream.behind_ms);
  }
  gauge("queued", "Changes that streams have yet to take, summed over the streams.", behind);
  gauge("lag_ms", "How long the slowest stream has not been up to date.", static_cast<size_t>(behind_ms));
  Render({"frames_total", "gRPC messages.", seen.frames_in, seen.frames_out, seen.upstream_frames_in,
          seen.upstream_frames_out},
         &text);
  Render({"messages_total", "Sync messages.", seen.messages_in, seen.messages_out, seen.upstream_messages_in,
          seen.upstream_messages_out},
         &text);
  Render({"bytes_total", "Bytes of gRPC messages.", seen.bytes_in, seen.bytes_out, seen.upstream_bytes_in,
          seen.upstream_bytes_out},
         &text);
  counter("coalesced_total", "Changes replaced by newer ones before they went on.", seen.coalesced);
  counter("stale_total", "Messages dropped for their version.", seen.stale);
  counter("echoes_total", "Messages about other nodes, dropped.", seen.echoes);
  counter("noise_held_total", "Updates that had to wait as noise.", seen.noise_held);
  counter("raised_total", "Messages whose version was raised.", seen.raised);
  counter("resent_total", "Entries of nodes that moved here, sent upstream once more.", seen.resent);
  counter("swept_total", "Nodes that a new stream upstream did not name any more.", seen.swept);
  counter("evicted_total", "Nodes of the upstream's that made room for others.", seen.evicted);
  counter("repaired_buckets_total", "Buckets of nodes sent again because digests differed.", seen.repaired_buckets);
  counter("dead_dropped_total", "Messages of the upstream about nodes known to be dead.", seen.dead_dropped);
  counter("nodes_left_total", "Nodes that were away for longer than the grace time.", seen.nodes_left);
  counter("streams_replaced_total", "Streams replaced by a newer one of the same node.", seen.streams_replaced);
  counter("upstream_connects_total", "Times that the stream to the upstream was made.", seen.upstream_connects);
  counter("upstream_skipped_total", "Messages of the upstream that were not good.", core_.shield().skipped());
  const std::string refused = std::string(kPrefix) + "refused_total";
  RenderHeader(refused, "counter", "Streams refused or ended, by reason.", &text);
  for (size_t i = 0; i < syncer::kRefusals; ++i) {
    const auto reason = static_cast<syncer::Refusal>(i);
    RenderSample(refused, "{reason=\"" + std::string(syncer::RefusalName(reason)) + "\"}",
                 static_cast<double>(core_.shield().refused(reason)), &text);
  }
  RenderDelay(seen.delay, &text);
  return text;
}

std::string SyncService::RenderStatus() const {
  const std::map<syncer::StreamId, Remote> remotes = Remotes();
  std::string streams;
  for (const syncer::StreamStatus& stream : core_.Streams()) {
    JsonObject object;
    object.Text("node_id", stream.node_id.Hex())
        .Text("relay_id", stream.relay_id)
        .Flag("upstream", stream.is_upstream)
        .Text("dialect", DialectName(stream.dialect))
        .Number("nodes", static_cast<int64_t>(stream.nodes))
        .Number("behind", static_cast<int64_t>(stream.behind))
        .Number("behind_ms", stream.behind_ms)
        .Number("connected_ms", stream.connected_ms);
    const auto remote = remotes.find(stream.id);
    if (remote != remotes.end()) {
      object.Text("address", remote->second.address).Text("admin", remote->second.admin);
    }
    streams += (streams.empty() ? "" : ",") + object.Close();
  }
  return JsonObject()
      .Text("relay_id", core_.relay_id())
      .Text("upstream", options_.upstream)
      .Flag("upstream_connected", core_.upstream_connected())
      .Text("upstream_problem", upstream_problem_)
      .Number("window_ms", options_.core.downward.window_ms)
      .Number("nodes", static_cast<int64_t>(core_.view().nodes().size()))
      .Number("refused", static_cast<int64_t>(core_.shield().refused_total()))
      .Raw("streams", "[" + streams + "]")
      .Close();
}

}  // namespace mantaray::relay
