// Which version of Mantaray this program belongs to. Bazel takes it from python/mantaray/__init__.py, the one place
// that says so.

#ifndef MANTARAY_RELAY_VERSION_H_
#define MANTARAY_RELAY_VERSION_H_

namespace mantaray::relay {

extern const char kVersion[];

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_VERSION_H_
