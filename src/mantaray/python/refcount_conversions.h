// Between ids of C++ and `bytes` of Python, for the bindings of src/mantaray/refcount.

#ifndef MANTARAY_PYTHON_REFCOUNT_CONVERSIONS_H_
#define MANTARAY_PYTHON_REFCOUNT_CONVERSIONS_H_

#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mantaray/common/ids.h"

namespace mantaray::python {

namespace py = pybind11;

template <typename T>
T IdOf(const py::bytes& bytes) {
  absl::StatusOr<T> id = T::FromBinary(std::string(bytes));
  if (!id.ok()) throw py::value_error(std::string(id.status().message()));
  return *id;
}

template <typename T>
py::bytes BytesOf(const T& id) {
  return {id.Binary().data(), id.Binary().size()};
}

using Ids = std::vector<py::bytes>;

template <typename T>
std::vector<T> IdsOf(const Ids& bytes) {
  std::vector<T> ids;
  ids.reserve(bytes.size());
  for (const py::bytes& one : bytes) ids.push_back(IdOf<T>(one));
  return ids;
}

template <typename Range>
Ids BytesOfAll(const Range& ids) {
  Ids bytes;
  for (const auto& id : ids) bytes.push_back(BytesOf(id));
  return bytes;
}

inline ObjectId IdOrNil(const std::optional<py::bytes>& bytes) { return bytes ? IdOf<ObjectId>(*bytes) : ObjectId(); }

template <typename T>
std::optional<py::bytes> BytesOrNone(const T& id) {
  if (id.IsNil()) return std::nullopt;
  return BytesOf(id);
}

}  // namespace mantaray::python

#endif  // MANTARAY_PYTHON_REFCOUNT_CONVERSIONS_H_
