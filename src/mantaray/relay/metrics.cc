// See metrics.h.

#include "mantaray/relay/metrics.h"

#include <algorithm>
#include <cstdio>

namespace mantaray::relay {
namespace {

constexpr double kSecondsBounds[] = {0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                     0.25,    0.5,    1,     2.5,    5,     10,   30,    120};

constexpr std::string_view kCodeNames[] = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.15g", value);
  return text;
}

std::string NameOf(size_t method) { return std::string(kSharedMethods[method].name); }

}  // namespace

void RenderHeader(std::string_view name, std::string_view type, std::string_view help, std::string* text) {
  text->append("# HELP ").append(name).append(" ").append(help).append("\n");
  text->append("# TYPE ").append(name).append(" ").append(type).append("\n");
}

void RenderSample(std::string_view name, std::string_view labels, double value, std::string* text) {
  text->append(name).append(labels).append(" ").append(Number(value)).append("\n");
}

Histogram::Histogram(std::span<const double> bounds) : bounds_(bounds), counts_(bounds.size() + 1) {}

void Histogram::Observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[bucket].fetch_add(1, std::memory_order_relaxed);
  sum_micro_.fetch_add(static_cast<uint64_t>(value * 1e6), std::memory_order_relaxed);
}

void Histogram::Render(std::string_view name, std::string* text) const {
  const std::string full(name);
  uint64_t total = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    total += counts_[i].load(std::memory_order_relaxed);
    const std::string bound = i < bounds_.size() ? Number(bounds_[i]) : "+Inf";
    RenderSample(full + "_bucket", "{le=\"" + bound + "\"}", static_cast<double>(total), text);
  }
  RenderSample(full + "_sum", "", static_cast<double>(sum_micro_.load(std::memory_order_relaxed)) / 1e6, text);
  RenderSample(full + "_count", "", static_cast<double>(total), text);
}

Metrics::Metrics() : proxy_seconds_(kSecondsBounds) {}

void Metrics::ProxyCallEnded(int code, double took_s) {
  in_flight_.fetch_sub(1, std::memory_order_relaxed);
  ended_[code >= 0 && code < kCodes ? code : 2].fetch_add(1, std::memory_order_relaxed);
  proxy_seconds_.Observe(took_s);
}

std::string Metrics::Render() const {
  std::string text;
  RenderHeader("mantaray_relay_proxy_in_flight", "gauge", "Proxied calls under way, long polls among them.", &text);
  RenderSample("mantaray_relay_proxy_in_flight", "", static_cast<double>(in_flight()), &text);
  RenderHeader("mantaray_relay_proxy_calls_total", "counter", "Proxied calls that ended, by status code.", &text);
  for (int code = 0; code < kCodes; ++code) {
    const uint64_t count = ended_[code].load(std::memory_order_relaxed);
    if (count > 0 || code == 0) {
      RenderSample("mantaray_relay_proxy_calls_total", "{code=\"" + std::string(kCodeNames[code]) + "\"}",
                   static_cast<double>(count), &text);
    }
  }
  RenderHeader("mantaray_relay_proxy_seconds", "histogram",
               "From a call's arrival to its end, the upstream's time too.", &text);
  proxy_seconds_.Render("mantaray_relay_proxy_seconds", &text);
  RenderHeader("mantaray_relay_rings_refused_total", "counter", "Calls refused because they had come here before.",
               &text);
  RenderSample("mantaray_relay_rings_refused_total", "", static_cast<double>(rings_refused_.load()), &text);
  RenderHeader("mantaray_relay_held_bytes", "gauge", "Bytes of messages that wait here for a reader.", &text);
  RenderSample("mantaray_relay_held_bytes", "", static_cast<double>(held_bytes()), &text);
  RenderHeader("mantaray_relay_packages_shared_total", "counter",
               "Fetches of a package that were answered with what another one had fetched.", &text);
  RenderSample("mantaray_relay_packages_shared_total", "", static_cast<double>(packages_shared_.load()), &text);
  RenderHeader("mantaray_relay_reads_total", "counter", "Reads of the GCS that came and may share an answer.", &text);
  for (size_t method = 0; method < kSharedMethods.size(); ++method) {
    RenderSample("mantaray_relay_reads_total", "{method=\"" + NameOf(method) + "\"}",
                 static_cast<double>(reads_[method].load()), &text);
  }
  RenderHeader("mantaray_relay_reads_asked_total", "counter", "Reads that the upstream was asked for them.", &text);
  for (size_t method = 0; method < kSharedMethods.size(); ++method) {
    RenderSample("mantaray_relay_reads_asked_total", "{method=\"" + NameOf(method) + "\"}",
                 static_cast<double>(reads_asked_[method].load()), &text);
  }
  RenderHeader("mantaray_relay_refused_total", "counter", "Calls refused or ended for a limit of the relay's.", &text);
  RenderSample("mantaray_relay_refused_total", "{limit=\"calls\"}", static_cast<double>(calls_refused_.load()), &text);
  RenderSample("mantaray_relay_refused_total", "{limit=\"watches\"}", static_cast<double>(watches_refused_.load()),
               &text);
  RenderSample("mantaray_relay_refused_total", "{limit=\"memory\"}", static_cast<double>(ended_for_memory_.load()),
               &text);
  RenderHeader("mantaray_relay_listening", "gauge", "0 while the listener is closed because the upstream is gone.",
               &text);
  RenderSample("mantaray_relay_listening", "", listening() ? 1 : 0, &text);
  RenderHeader("mantaray_relay_upstream_given_up_total", "counter",
               "Times that the listener was closed because the upstream was gone.", &text);
  RenderSample("mantaray_relay_upstream_given_up_total", "", static_cast<double>(upstream_given_up_.load()), &text);
  return text;
}

}  // namespace mantaray::relay
