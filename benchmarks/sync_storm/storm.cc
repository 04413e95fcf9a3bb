// See storm.h.

#include "benchmarks/sync_storm/storm.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace mantaray::storm {
namespace {

constexpr size_t kReadBytes = 256 << 10;
constexpr int kEvents = 256;
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

absl::Status ErrnoStatus(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

absl::StatusOr<sockaddr_in> Parse(absl::string_view target) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(target, absl::MaxSplits(':', 1));
  sockaddr_in address{};
  uint32_t port = 0;
  address.sin_family = AF_INET;
  if (inet_pton(AF_INET, parts.first.c_str(), &address.sin_addr) != 1 || !absl::SimpleAtoi(parts.second, &port)) {
    return absl::InvalidArgumentError(absl::StrCat("'", target, "' is not ADDRESS:PORT with a numeric IPv4 address"));
  }
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

}  // namespace

Storm::Storm(StormOptions options) : options_(std::move(options)), buffer_(kReadBytes), random_(options_.seed) {
  const size_t bare_bytes = Encode(options_.dialect, 1, Payload(0, 1, 0), NodeId(0, options_.seed)).size();
  if (options_.message_bytes > bare_bytes + 3) padding_bytes_ = options_.message_bytes - bare_bytes - 3;
}

Storm::~Storm() {
  for (Node& node : nodes_) {
    if (node.fd >= 0) close(node.fd);
  }
  if (epoll_ >= 0) close(epoll_);
}

absl::Status Storm::Run() {
  for (auto step : {&Storm::Connect, &Storm::Join, &Storm::Steady, &Storm::Bursts}) {
    if (absl::Status status = (this->*step)(); !status.ok()) return status;
  }
  Report();
  return absl::OkStatus();
}

absl::Status Storm::Connect() {
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_ < 0) return ErrnoStatus("epoll_create1");
  std::vector<sockaddr_in> addresses;
  for (const std::string& target : options_.targets) {
    const absl::StatusOr<sockaddr_in> address = Parse(target);
    if (!address.ok()) return address.status();
    addresses.push_back(*address);
  }
  nodes_.resize(options_.nodes);
  for (uint32_t index = 0; index < options_.nodes; ++index) {
    Node& node = nodes_[index];
    node.index = index;
    node.id = NodeId(index, options_.seed);
    node.seen.resize(options_.nodes);
    GrpcStreamOptions stream;
    stream.authority = options_.targets[index % addresses.size()];
    stream.path = "/ray.rpc.syncer.RaySyncer/StartSync";
    stream.metadata.emplace_back("node_id", absl::BytesToHexString(node.id));
    if (!options_.token.empty()) stream.metadata.emplace_back("authorization", "Bearer " + options_.token);
    stream.window_bytes = options_.window_bytes;
    node.stream = std::make_unique<GrpcStream>(stream);
    node.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (node.fd < 0) return ErrnoStatus("socket");
    const int on = 1;
    setsockopt(node.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    const auto* address = reinterpret_cast<const sockaddr*>(&addresses[index % addresses.size()]);
    if (connect(node.fd, address, sizeof(sockaddr_in)) != 0 && errno != EINPROGRESS) return ErrnoStatus("connect");
    node.waits_for_room = true;  // until it is connected
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT;
    event.data.u32 = index;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, node.fd, &event) != 0) return ErrnoStatus("epoll_ctl");
  }
  return absl::OkStatus();
}

absl::Status Storm::Join() {
  Tell("join_begin");
  const int64_t start_us = NowUs();
  for (Node& node : nodes_) Publish(node, start_us);
  absl::Status status = Pump(start_us + Us(options_.join_s), [this] { return Converged(); });
  if (!status.ok()) return status;
  if (Converged()) join_ms_ = static_cast<double>(NowUs() - start_us) / 1e3;
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
  measured_.bytes = counters_.bytes - before.bytes;
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
      if (absl::Status status = TrySend(node); !status.ok()) return status;
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

absl::Status Storm::TrySend(Node& node) {
  // One view at most is on its way to the kernel; the newest waits.
  if (node.unsent && !node.waits_for_room) {
    const uint64_t sequence = node.published_us.size();
    const std::string message =
        Encode(options_.dialect, sequence, Payload(node.index, sequence, padding_bytes_), node.id);
    if (node.stream->CanSend(message.size())) {
      node.stream->Send(message);
      node.unsent = false;
      ++counters_.sent;
    }
  }
  return Flush(node);
}

absl::Status Storm::Flush(Node& node) {
  while (!node.stream->unwritten().empty()) {
    const absl::string_view data = node.stream->unwritten();
    const ssize_t written = send(node.fd, data.data(), data.size(), MSG_NOSIGNAL);
    if (written < 0) {
      if (errno != EAGAIN && errno != ENOTCONN) return ErrnoStatus(absl::StrCat("send of node ", node.index));
      break;
    }
    node.stream->Written(static_cast<size_t>(written));
  }
  const bool waits = !node.stream->unwritten().empty();
  if (waits == node.waits_for_room) return absl::OkStatus();
  node.waits_for_room = waits;
  epoll_event event{};
  event.events = waits ? EPOLLIN | EPOLLOUT : EPOLLIN;
  event.data.u32 = node.index;
  if (epoll_ctl(epoll_, EPOLL_CTL_MOD, node.fd, &event) != 0) return ErrnoStatus("epoll_ctl");
  return absl::OkStatus();
}

absl::Status Storm::Read(Node& node) {
  const ssize_t got = recv(node.fd, buffer_.data(), buffer_.size(), 0);
  if (got == 0) return absl::UnavailableError(absl::StrCat("node ", node.index, ": the server closed the connection"));
  if (got < 0) return errno == EAGAIN ? absl::OkStatus() : ErrnoStatus(absl::StrCat("recv of node ", node.index));
  const int64_t now_us = NowUs();
  counters_.bytes += static_cast<uint64_t>(got);
  bool readable = true;
  const auto on_message = [&](absl::string_view data) {
    ++counters_.batches;
    readable &= Decode(data, [&](const SyncMessage& message) { OnMessage(node, message, now_us); });
  };
  absl::Status status = node.stream->Receive(absl::string_view(buffer_.data(), static_cast<size_t>(got)), on_message);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat("node ", node.index, ": ", status.message()));
  }
  if (!readable) return absl::InternalError(absl::StrCat("node ", node.index, ": neither a message nor a batch"));
  return absl::OkStatus();
}

absl::Status Storm::HandleReady(Node& node, uint32_t events) {
  if ((events & EPOLLOUT) != 0) {
    if (absl::Status status = Flush(node); !status.ok()) return status;
  }
  if ((events & ~static_cast<uint32_t>(EPOLLOUT)) != 0) {
    if (absl::Status status = Read(node); !status.ok()) return status;
  }
  // Reading may have made room in a window, and there are windows to give back.
  return TrySend(node);
}

void Storm::OnMessage(Node& receiver, const SyncMessage& message, int64_t now_us) {
  ++counters_.messages;
  const uint32_t origin = NodeIndex(message.node_id);
  const uint64_t sequence = PayloadSequence(message.payload);
  if (origin >= nodes_.size() || sequence == 0) {
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
    if (published_us >= measured_from_us_ && published_us < measured_to_us_) staleness_.Add(now_us - published_us);
  }
  if (sequence == publisher.published_us.size() && ++publisher.holders + 1 == nodes_.size()) ++up_to_date_;
}

void Storm::CheckPayload(const SyncMessage& message, uint32_t origin, uint64_t sequence) {
  const bool same =
      message.node_id == nodes_[origin].id && message.payload == Payload(origin, sequence, padding_bytes_);
  if (!same) ++counters_.damaged;
}

absl::Status Storm::PublishDue(int64_t now_us) {
  while (publishing_) {
    const int64_t due_us = period_start_us_ + phases_us_[next_];
    if (due_us > now_us) break;
    Node& node = nodes_[order_[next_]];
    lateness_.Add(now_us - due_us);
    Publish(node, now_us);
    if (absl::Status status = TrySend(node); !status.ok()) return status;
    if (++next_ == nodes_.size()) {
      next_ = 0;
      period_start_us_ += period_us_;
    }
  }
  return absl::OkStatus();
}

absl::Status Storm::Pump(int64_t until_us, absl::FunctionRef<bool()> done) {
  epoll_event events[kEvents];
  for (int64_t now_us = NowUs(); now_us < until_us && !done(); now_us = NowUs()) {
    if (absl::Status status = PublishDue(now_us); !status.ok()) return status;
    int64_t wake_us = until_us;
    if (publishing_) wake_us = std::min(wake_us, period_start_us_ + phases_us_[next_]);
    // Rounded up: rather a millisecond late than awake in between.
    const int wait_ms = static_cast<int>(std::clamp<int64_t>((wake_us - now_us + 999) / 1000, 0, 1000));
    const int ready = epoll_wait(epoll_, events, kEvents, wait_ms);
    if (ready < 0 && errno != EINTR) return ErrnoStatus("epoll_wait");
    for (int at = 0; at < ready; ++at) {
      absl::Status status = HandleReady(nodes_[events[at].data.u32], events[at].events);
      if (!status.ok()) return status;
      if (publishing_) status = PublishDue(NowUs());
      if (!status.ok()) return status;
    }
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
        staleness_.Add(now_us - published_us);
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
  absl::PrintF("{\"nodes\": %d, \"hz\": %g, \"seconds\": %g, \"join_ms\": %.1f, \"settle_ms\": %.1f, ", options_.nodes,
               options_.hz, options_.seconds, join_ms_, settle_ms_);
  absl::PrintF("\"staleness_p50_ms\": %s, \"staleness_p99_ms\": %s, \"staleness_max_ms\": %s, ",
               ms(staleness_.Quantile(0.5)), ms(staleness_.Quantile(0.99)), ms(staleness_.max_us()));
  absl::PrintF("\"measured\": %d, \"missing\": %d, \"lateness_p99_ms\": %s, ", staleness_.total(), missing_,
               ms(lateness_.Quantile(0.99)));
  absl::PrintF("\"sent\": %d, \"not_sent\": %d, \"messages\": %d, \"batches\": %d, \"bytes\": %d, ", measured_.sent,
               measured_.not_sent, measured_.messages, measured_.batches, measured_.bytes);
  absl::PrintF("\"out_of_date\": %d, \"own\": %d, \"foreign\": %d, \"damaged\": %d, ", counters_.out_of_date,
               counters_.own, counters_.foreign, counters_.damaged);
  absl::PrintF("\"generator_cpu_s\": %.3f, \"generator_rss_mb\": %.1f, \"burst_ms\": [%s]}\n",
               static_cast<double>(measured_.cpu_us) / 1e6, static_cast<double>(usage.ru_maxrss) / 1024, bursts);
  std::fflush(stdout);
}

}  // namespace mantaray::storm
