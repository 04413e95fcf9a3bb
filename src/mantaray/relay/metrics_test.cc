// Metrics: what Prometheus is told of calls.

#include "mantaray/relay/metrics.h"

#include <gtest/gtest.h>

#include <string>

namespace mantaray::relay {
namespace {

TEST(MetricsTest, CallsThatTakeLessThanAMillisecondAreNotAllTheSame) {
  Metrics metrics;
  for (const double took_s : {0.0002, 0.0004, 0.0008}) {
    metrics.ProxyCallStarted();
    metrics.ProxyCallEnded(/*code=*/0, took_s);
  }
  const std::string text = metrics.Render();
  for (const char* line : {"_bucket{le=\"0.00025\"} 1\n", "_bucket{le=\"0.0005\"} 2\n", "_bucket{le=\"0.001\"} 3\n",
                           "_bucket{le=\"+Inf\"} 3\n", "_sum 0.0014\n", "_count 3\n"}) {
    EXPECT_NE(text.find("mantaray_relay_proxy_seconds" + std::string(line)), std::string::npos) << line << text;
  }
}

}  // namespace
}  // namespace mantaray::relay
