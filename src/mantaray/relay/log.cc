// See log.h.

#include "mantaray/relay/log.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>

namespace mantaray::relay {
namespace {

LogLevel g_lowest = LogLevel::kInfo;
bool g_json = false;

constexpr std::array<std::string_view, 4> kUpper = {"DEBUG", "INFO", "WARNING", "ERROR"};
constexpr std::array<std::string_view, 4> kLower = {"debug", "info", "warning", "error"};

std::string Now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  const std::time_t seconds = ms / 1000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[64];
  const size_t size = std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(text + size, sizeof(text) - size, ".%03dZ", static_cast<int>(ms % 1000));
  return text;
}

// One write a line: lines of several threads, or of several relays, do not mix.
void WriteLine(std::string line) {
  line += '\n';
  const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  static_cast<void>(written);  // There is nowhere left to complain.
}

}  // namespace

void SetUpLog(LogLevel lowest, bool json) {
  g_lowest = lowest;
  g_json = json;
}

bool IsLogged(LogLevel level) { return level >= g_lowest; }

void Log(LogLevel level, std::string_view event, LogFields fields) {
  if (!IsLogged(level)) {
    return;
  }
  const auto index = static_cast<size_t>(level);
  std::string line;
  if (g_json) {
    line =
        "{\"time\":\"" + Now() + "\",\"level\":\"" + std::string(kLower[index]) + "\",\"event\":" + JsonString(event);
    for (const auto& [key, value] : fields) {
      line += "," + JsonString(key) + ":" + JsonString(value);
    }
    line += "}";
  } else {
    line = Now() + " " + std::string(kUpper[index]) + " relay: " + std::string(event);
    for (const auto& [key, value] : fields) {
      const bool plain = !value.empty() && value.find_first_of(" \"\n\t=") == std::string::npos;
      line += " " + std::string(key) + "=" + (plain ? value : JsonString(value));
    }
  }
  WriteLine(std::move(line));
}

std::string JsonString(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (c < 0x20 || c > 0x7e) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", static_cast<unsigned char>(c));
      quoted += escaped;
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

}  // namespace mantaray::relay
