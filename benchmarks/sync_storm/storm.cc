// See storm.h.

#include "benchmarks/sync_storm/storm.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace mantaray::storm {
namespace {

constexpr int64_t kPauseBeforeBurstUs = 300'000;
// Every so many messages one is compared with what was sent, byte for byte.
constexpr uint64_t kChecked = 64;

int64_t NowUs() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::microseconds>(now).count();
}

int64_t Us(double seconds) { return static_cast<int64_t>(seconds * 1e6); }

uint64_t CpuUs() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto micros = [](const timeval& time) { return time.tv_sec * 1'000'000ULL + time.tv_usec; };
  return micros(usage.ru_utime) + micros(usage.ru_stime);
}

void Tell(absl::string_view event) {
  absl::PrintF("{\"event\": \"%s\"}\n", event);
  std::fflush(stdout);
}

}  // namespace

Storm::Storm(StormOptions options) : options_(std::move(options)), random_(options_.seed) {
  const size_t bare_bytes = Encode(options_.dialect, 1, Payload(0, 1, 0), NodeId(0, options_.seed)).size();
  if (options_.message_bytes > bare_bytes + 3) padding_bytes_ = options_.message_bytes - bare_bytes - 3;
}

absl::Status Storm::Run() {
  for (auto step : {&Storm::Connect, &Storm::Join, &Storm::Steady, &Storm::Bursts}) {
    if (absl::Status status = (this->*step)(); !status.ok()) return status;
  }
  Report();
  return absl::OkStatus();
}

absl::Status Storm::Connect() {
  TransportOptions transport{options_.targets, {}, options_.token, options_.window_bytes};
  nodes_.resize(options_.nodes);
  for (uint32_t index = 0; index < options_.nodes; ++index) {
    nodes_[index].index = index;
    nodes_[index].id = NodeId(index, options_.seed);
    nodes_[index].seen.resize(options_.nodes);
    transport.node_ids.push_back(absl::BytesToHexString(nodes_[index].id));
  }
  transport_ = (options_.grpc_library ? MakeGrpcTransport : MakeSocketTransport)(std::move(transport));
  const std::string error = transport_->Start();
  return error.empty() ? absl::OkStatus() : absl::UnavailableError(error);
}

absl::Status Storm::Join() {
  Tell("join_begin");
  const int64_t start_us = NowUs();
  for (Node& node : nodes_) Publish(node, start_us);
  absl::Status status = Pump(start_us + Us(options_.join_s), [this] { return Converged(); });
  if (!status.ok()) return status;
  if (Converged()) join_ms_ = static_cast<double>(NowUs() - start_us) / 1e3;
  for (const Node& receiver : nodes_) {
    lost_at_join_ += static_cast<uint64_t>(std::count(receiver.seen.begin(), receiver.seen.end(), 0U)) - 1;
  }
  Tell("join_end");
  return absl::OkStatus();
}

absl::Status Storm::Steady() {
  if (options_.seconds <= 0) return absl::OkStatus();
  period_us_ = Us(1 / options_.hz);
  std::uniform_int_distribution<int64_t> phase(0, period_us_ - 1);
  phases_us_.resize(nodes_.size());
  for (int64_t& each : phases_us_) each = phase(random_);
  std::sort(phases_us_.begin(), phases_us_.end());
  order_.resize(nodes_.size());
  std::iota(order_.begin(), order_.end(), 0);
  std::shuffle(order_.begin(), order_.end(), random_);
  period_start_us_ = NowUs();
  publishing_ = true;
  const auto never = [] { return false; };
  if (absl::Status status = Pump(period_start_us_ + Us(options_.warmup_s), never); !status.ok()) return status;
  Tell("measure_begin");
  const Counters before = counters_;
  const uint64_t bytes_before = transport_->received_bytes();
  const uint64_t cpu_before_us = CpuUs();
  measured_from_us_ = NowUs();
  measured_to_us_ = measured_from_us_ + Us(options_.seconds);
  if (absl::Status status = Pump(measured_to_us_, never); !status.ok()) return status;
  Tell("measure_end");
  measured_.cpu_us = CpuUs() - cpu_before_us;
  measured_.sent = counters_.sent - before.sent;
  measured_.not_sent = counters_.not_sent - before.not_sent;
  measured_.messages = counters_.messages - before.messages;
  measured_.batches = counters_.batches - before.batches;
  measured_.bytes = transport_->received_bytes() - bytes_before;
  publishing_ = false;
  const int64_t stopped_us = NowUs();
  absl::Status status = Pump(stopped_us + Us(options_.settle_s), [this] { return Converged(); });
  if (!status.ok()) return status;
  const int64_t settled_us = NowUs();
  if (Converged()) settle_ms_ = static_cast<double>(settled_us - stopped_us) / 1e3;
  CountMissing(settled_us);
  measured_from_us_ = INT64_MAX;
  return absl::OkStatus();
}

absl::Status Storm::Bursts() {
  for (uint32_t round = 0; round < options_.bursts; ++round) {
    const auto never = [] { return false; };
    if (absl::Status status = Pump(NowUs() + kPauseBeforeBurstUs, never); !status.ok()) return status;
    Tell("burst_begin");
    const int64_t start_us = NowUs();
    for (Node& node : nodes_) {
      Publish(node, NowUs());
      TrySend(node);
    }
    absl::Status status = Pump(start_us + Us(options_.burst_s), [this] { return Converged(); });
    if (!status.ok()) return status;
    burst_ms_.push_back(Converged() ? static_cast<double>(NowUs() - start_us) / 1e3 : -1);
    Tell("burst_end");
  }
  return absl::OkStatus();
}

void Storm::Publish(Node& node, int64_t now_us) {
  if (node.holders + 1 == nodes_.size() && !node.published_us.empty()) --up_to_date_;
  node.holders = 0;
  if (nodes_.size() == 1) ++up_to_date_;
  node.published_us.push_back(now_us);
  if (node.unsent) ++counters_.not_sent;
  node.unsent = true;
}

void Storm::TrySend(Node& node) {
  if (!node.unsent) return;
  const uint64_t sequence = node.published_us.size();
  const std::string message = Encode(options_.dialect, sequence,
                                     Payload(node.index, sequence, padding_bytes_, options_.material_every), node.id);
  if (!transport_->CanSend(node.index, message.size())) return;
  node.unsent = false;
  ++counters_.sent;
  transport_->Send(node.index, message);
}

void Storm::OnMessage(uint32_t node, std::string_view data) {
  const int64_t now_us = NowUs();
  ++counters_.batches;
  Node& receiver = nodes_[node];
  if (!Decode(data, [&](const SyncMessage& message) { Take(receiver, message, now_us); })) unreadable_ = true;
}

Histogram& Storm::StalenessOf(uint32_t origin, uint64_t sequence) {
  return IsMaterial(origin, sequence, options_.material_every) ? staleness_ : noise_staleness_;
}

void Storm::Take(Node& receiver, const SyncMessage& message, int64_t now_us) {
  ++counters_.messages;
  const uint32_t origin = NodeIndex(message.node_id);
  const uint64_t sequence = PayloadSequence(message.payload);
  // A GCS that served other runs may still tell of their nodes, whose ids differ in what follows the index.
  if (origin >= nodes_.size() || message.node_id != nodes_[origin].id || sequence == 0) {
    ++counters_.foreign;
    return;
  }
  Node& publisher = nodes_[origin];
  if (sequence > publisher.published_us.size()) {
    ++counters_.damaged;
    return;
  }
  if (origin == receiver.index) {
    ++counters_.own;
    return;
  }
  if (counters_.messages % kChecked == 0) CheckPayload(message, origin, sequence);
  const uint32_t seen = receiver.seen[origin];
  if (sequence <= seen) {
    ++counters_.out_of_date;
    return;
  }
  receiver.seen[origin] = static_cast<uint32_t>(sequence);
  for (uint64_t each = seen + 1; each <= sequence; ++each) {
    const int64_t published_us = publisher.published_us[each - 1];
    if (published_us < measured_from_us_ || published_us >= measured_to_us_) continue;
    StalenessOf(origin, each).Add(now_us - published_us);
  }
  if (sequence == publisher.published_us.size() && ++publisher.holders + 1 == nodes_.size()) ++up_to_date_;
}

void Storm::CheckPayload(const SyncMessage& message, uint32_t origin, uint64_t sequence) {
  const bool same = message.payload == Payload(origin, sequence, padding_bytes_, options_.material_every);
  if (!same) ++counters_.damaged;
}

void Storm::PublishDue(int64_t now_us) {
  while (publishing_ && period_start_us_ + phases_us_[next_] <= now_us) {
    Node& node = nodes_[order_[next_]];
    lateness_.Add(now_us - period_start_us_ - phases_us_[next_]);
    Publish(node, now_us);
    TrySend(node);
    if (++next_ == nodes_.size()) {
      next_ = 0;
      period_start_us_ += period_us_;
    }
  }
}

absl::Status Storm::Pump(int64_t until_us, absl::FunctionRef<bool()> done) {
  for (int64_t now_us = NowUs(); now_us < until_us && !done(); now_us = NowUs()) {
    PublishDue(now_us);
    int64_t wake_us = until_us;
    if (publishing_) wake_us = std::min(wake_us, period_start_us_ + phases_us_[next_]);
    // Rounded up: rather a millisecond late than awake in between.
    const auto wait_ms = static_cast<int>(std::clamp<int64_t>((wake_us - now_us + 999) / 1000, 0, 1000));
    if (std::string error = transport_->Poll(wait_ms, this); !error.empty()) return absl::UnavailableError(error);
    if (unreadable_) return absl::InternalError("received what is neither a message nor a batch");
  }
  return absl::OkStatus();
}

void Storm::CountMissing(int64_t now_us) {
  for (const Node& publisher : nodes_) {
    for (const Node& receiver : nodes_) {
      if (receiver.index == publisher.index) continue;
      for (size_t each = receiver.seen[publisher.index]; each < publisher.published_us.size(); ++each) {
        const int64_t published_us = publisher.published_us[each];
        if (published_us < measured_from_us_ || published_us >= measured_to_us_) continue;
        StalenessOf(publisher.index, each + 1).Add(now_us - published_us);
        ++missing_;
      }
    }
  }
}

void Storm::Report() const {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto ms = [](uint64_t us) { return absl::StrFormat("%.3f", static_cast<double>(us) / 1e3); };
  const std::string bursts = absl::StrJoin(
      burst_ms_, ", ", [](std::string* out, double each) { absl::StrAppend(out, absl::StrFormat("%.1f", each)); });
  absl::PrintF(
      "{\"nodes\": %d, \"hz\": %g, \"seconds\": %g, \"join_ms\": %.1f, \"lost_at_join\": %d, \"settle_ms\": %.1f, ",
      options_.nodes, options_.hz, options_.seconds, join_ms_, lost_at_join_, settle_ms_);
  absl::PrintF("\"staleness_p50_ms\": %s, \"staleness_p99_ms\": %s, \"staleness_max_ms\": %s, ",
               ms(staleness_.Quantile(0.5)), ms(staleness_.Quantile(0.99)), ms(staleness_.max_us()));
  absl::PrintF("\"material_every\": %d, \"noise_p50_ms\": %s, \"noise_p99_ms\": %s, ", options_.material_every,
               ms(noise_staleness_.Quantile(0.5)), ms(noise_staleness_.Quantile(0.99)));
  absl::PrintF("\"measured\": %d, \"missing\": %d, \"lateness_p99_ms\": %s, ",
               staleness_.total() + noise_staleness_.total(), missing_, ms(lateness_.Quantile(0.99)));
  absl::PrintF("\"sent\": %d, \"not_sent\": %d, \"messages\": %d, \"batches\": %d, \"bytes\": %d, ", measured_.sent,
               measured_.not_sent, measured_.messages, measured_.batches, measured_.bytes);
  absl::PrintF("\"out_of_date\": %d, \"own\": %d, \"foreign\": %d, \"damaged\": %d, ", counters_.out_of_date,
               counters_.own, counters_.foreign, counters_.damaged);
  absl::PrintF("\"generator_cpu_s\": %.3f, \"generator_rss_mb\": %.1f, \"burst_ms\": [%s]}\n",
               static_cast<double>(measured_.cpu_us) / 1e6, static_cast<double>(usage.ru_maxrss) / 1024, bursts);
  std::fflush(stdout);
}

}  // namespace mantaray::storm
