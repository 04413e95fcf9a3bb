// Bindings of src/mantaray/spill: converts, releases the GIL, calls, raises.
//
// Status becomes exception as follows: DataLoss -> SpillDamageError, ResourceExhausted -> SpillNoSpaceError (an
// OSError), NotFound -> FileNotFoundError, InvalidArgument -> ValueError, Unimplemented -> NotImplementedError,
// everything else -> OSError.

#include "mantaray/python/spill_bindings.h"

#include <pybind11/stl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mantaray/common/ids.h"
#include "mantaray/common/steady_clock.h"
#include "mantaray/spill/engine.h"
#include "mantaray/spill/names.h"
#include "mantaray/spill/posix_file_system.h"
#include "mantaray/spill/posix_host.h"
#include "mantaray/spill/posix_parallel.h"
#include "mantaray/spill/posix_pull_check_library.h"
#include "mantaray/spill/spilled_object.h"

namespace py = pybind11;

namespace mantaray::python {
namespace {

struct Exceptions {
  py::object damage;
  py::object no_space;
};

// Lives as long as the interpreter. The module holds the same objects.
Exceptions* exceptions = nullptr;

[[noreturn]] void Raise(const absl::Status& status) {
  const std::string message(status.message());
  PyObject* type = PyExc_OSError;
  switch (status.code()) {
    case absl::StatusCode::kDataLoss:
      type = exceptions->damage.ptr();
      break;
    case absl::StatusCode::kResourceExhausted:
      type = exceptions->no_space.ptr();
      break;
    case absl::StatusCode::kNotFound:
      type = PyExc_FileNotFoundError;
      break;
    case absl::StatusCode::kInvalidArgument:
      type = PyExc_ValueError;
      break;
    case absl::StatusCode::kUnimplemented:
      type = PyExc_NotImplementedError;
      break;
    default:
      break;
  }
  PyErr_SetString(type, message.c_str());
  throw py::error_already_set();
}

void RaiseUnlessOk(const absl::Status& status) {
  if (!status.ok()) Raise(status);
}

ObjectId ObjectIdOf(const py::bytes& bytes) {
  const absl::StatusOr<ObjectId> id = ObjectId::FromBinary(std::string(bytes));
  if (!id.ok()) throw py::value_error("an object id has 28 bytes");
  return *id;
}

// How many segments the reclaimer may keep open. This is a part of the files that the process may open at all.
size_t MaxPendingFiles() {
  constexpr size_t kMost = 1024;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return kMost / 8;
  return std::min<size_t>(kMost, limit.rlim_cur / 4);
}

// Shared by all readers of the process. It is never destroyed, because threads may outlive static objects.
Parallel* Helper() {
  static auto* const helper = new spill::HelperThreads();
  return helper;
}

// A Python buffer, held while native code reads or fills it.
class HeldBuffer {
 public:
  HeldBuffer(const py::handle& object, bool writable) {
    const int flags = writable ? PyBUF_WRITABLE : PyBUF_SIMPLE;
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw py::error_already_set();
  }
  HeldBuffer(HeldBuffer&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
  HeldBuffer(const HeldBuffer&) = delete;
  HeldBuffer& operator=(const HeldBuffer&) = delete;
  HeldBuffer& operator=(HeldBuffer&&) = delete;
  ~HeldBuffer() {
    if (view_.obj != nullptr) PyBuffer_Release(&view_);
  }

  char* data() const { return static_cast<char*>(view_.buf); }
  size_t size() const { return static_cast<size_t>(view_.len); }

 private:
  Py_buffer view_{};
};

spill::CacheMode CacheModeOf(const std::string& name) {
  if (name == "keep") return spill::CacheMode::kKeep;
  if (name == "drop") return spill::CacheMode::kDrop;
  if (name == "direct") return spill::CacheMode::kDirect;
  throw py::value_error("cache mode must be keep, drop or direct, not '" + name + "'");
}

class PyReader {
 public:
  explicit PyReader(spill::ObjectReader reader) : reader_(std::move(reader)) {}

  py::bytes OwnerAddress() const { return {reader_.owner_address().data(), reader_.owner_address().size()}; }
  py::bytes Metadata() const { return {reader_.metadata().data(), reader_.metadata().size()}; }
  uint64_t PayloadBytes() const { return reader_.payload_bytes(); }
  bool Checked() const { return reader_.checked(); }
  uint64_t inode() const { return reader_.inode(); }

  size_t ReadInto(const py::object& buffer) {
    HeldBuffer view(buffer, /*writable=*/true);
    absl::Status status;
    {
      py::gil_scoped_release unlocked;
      status = reader_.ReadPayload({view.data(), view.size()}, Helper());
    }
    RaiseUnlessOk(status);
    return view.size();
  }

  void Verify() {
    absl::Status status;
    {
      py::gil_scoped_release unlocked;
      status = reader_.VerifyPayload();
    }
    RaiseUnlessOk(status);
  }

 private:
  spill::ObjectReader reader_;
};

class PyEngine {
 public:
  PyEngine(std::vector<std::string> node_directories, std::vector<uint64_t> devices, std::string state_directory,
           uint64_t max_segment_bytes, uint64_t max_fused_bytes, std::optional<uint64_t> reserve_bytes,
           const std::string& cache_mode, uint64_t read_ahead_bytes, int64_t punch_delay_ms, int64_t raylet_pid)
      : host_(raylet_pid) {
    const absl::StatusOr<spill::ProcessId> self = spill::PosixHost::Lookup(getpid());
    if (!self.ok()) Raise(self.status());
    spill::EngineOptions options;
    options.node_directories = std::move(node_directories);
    options.devices = std::move(devices);
    options.state_directory = std::move(state_directory);
    options.self = *self;
    options.max_segment_bytes = max_segment_bytes;
    options.max_fused_bytes = max_fused_bytes;
    options.reserve_bytes = reserve_bytes;
    options.cache_mode = CacheModeOf(cache_mode);
    options.read_ahead_bytes = read_ahead_bytes;
    options.reclaimer.punch_delay_ms = punch_delay_ms;
    options.reclaimer.max_pending_files = MaxPendingFiles();
    engine_ = std::make_unique<spill::Engine>(&fs_, &clock_, &host_, Helper(), std::move(options));
  }

  std::vector<py::bytes> Spill(const py::list& objects) {
    // The bytes objects and buffers are held by `objects` and `buffers` until the call returns.
    std::vector<HeldBuffer> buffers;
    std::vector<spill::ObjectToSpill> to_spill;
    buffers.reserve(objects.size());
    to_spill.reserve(objects.size());
    for (const py::handle item : objects) to_spill.push_back(ObjectOf(item, &buffers));
    absl::StatusOr<std::vector<std::string>> urls = std::vector<std::string>();
    {
      py::gil_scoped_release unlocked;
      urls = engine_->Spill(to_spill);
    }
    if (!urls.ok()) Raise(urls.status());
    std::vector<py::bytes> result;
    result.reserve(urls->size());
    for (const std::string& url : *urls) result.emplace_back(url);
    return result;
  }

  void KeepInCache(bool keep) {
    py::gil_scoped_release unlocked;
    engine_->KeepInCache(keep);
  }

  PyReader Open(const std::string& url, const py::bytes& object_id) {
    const ObjectId id = ObjectIdOf(object_id);
    absl::StatusOr<spill::ObjectReader> reader = absl::UnknownError("");
    {
      py::gil_scoped_release unlocked;
      reader = engine_->Open(url, id);
    }
    if (!reader.ok()) Raise(reader.status());
    return PyReader(*std::move(reader));
  }

  bool SetAside(const std::string& url, const PyReader& reader) {
    const uint64_t inode = reader.inode();
    py::gil_scoped_release unlocked;
    return engine_->SetAside(url, inode);
  }

  void Replace(const std::string& url, const py::tuple& object) {
    std::vector<HeldBuffer> buffers;
    const spill::ObjectToSpill to_write = ObjectOf(object, &buffers);
    absl::Status status;
    {
      py::gil_scoped_release unlocked;
      status = engine_->Replace(url, to_write);
    }
    RaiseUnlessOk(status);
  }

  py::object OwnerOf(const std::string& url) {
    absl::StatusOr<std::string> owner = absl::UnknownError("");
    {
      py::gil_scoped_release unlocked;
      owner = engine_->OwnerOf(url);
    }
    if (!owner.ok()) return py::none();
    return py::bytes(*owner);
  }

  py::dict Stats() {
    const spill::EngineStats stats = engine_->Stats();
    py::dict result;
    result["spilled_objects"] = stats.spilled_objects;
    result["spilled_bytes"] = stats.spilled_bytes;
    result["opened_objects"] = stats.opened_objects;
    result["opened_bytes"] = stats.opened_bytes;
    result["deleted_objects"] = stats.deleted_objects;
    result["damaged_objects"] = stats.damaged_objects;
    result["lost_objects"] = stats.lost_objects;
    result["repaired_objects"] = stats.repaired_objects;
    result["io_errors"] = stats.io_errors;
    result["writeback_errors"] = stats.writeback_errors;
    result["refused_spills"] = stats.refused_spills;
    result["deferred_deletes"] = stats.deferred_deletes;
    result["punched_bytes"] = stats.reclaimer.punched_bytes;
    result["failed_punches"] = stats.reclaimer.failed_punches;
    result["delayed_punches"] = stats.reclaimer.delayed_punches;
    result["pending_punch_bytes"] = stats.reclaimer.pending_bytes;
    return result;
  }

  void Delete(const std::vector<std::string>& urls) {
    absl::Status status;
    {
      py::gil_scoped_release unlocked;
      status = engine_->Delete(urls);
    }
    RaiseUnlessOk(status);
  }

  void Tick() {
    py::gil_scoped_release unlocked;
    engine_->Tick();
  }

  void Close() {
    py::gil_scoped_release unlocked;
    engine_->Close();
  }

  int64_t CloseDelayMs() const { return engine_->CloseDelayMs(); }

  std::vector<std::string> Limitations() {
    py::gil_scoped_release unlocked;
    return engine_->Limitations();
  }

  std::vector<std::string> Unusable() {
    py::gil_scoped_release unlocked;
    return engine_->Unusable();
  }

 private:
  // Converts (object_id, owner_address, metadata, payload or None). The vector `buffers` holds the payload.
  static spill::ObjectToSpill ObjectOf(const py::handle& item, std::vector<HeldBuffer>* buffers) {
    const auto fields = py::reinterpret_borrow<py::tuple>(item);
    if (!py::isinstance<py::tuple>(item) || fields.size() != 4) {
      throw py::type_error("expected (object_id, owner_address, metadata, payload)");
    }
    spill::ObjectToSpill object;
    object.object_id = ObjectIdOf(fields[0]);
    object.owner_address = BytesView(fields[1]);
    object.metadata = BytesView(fields[2]);
    if (!fields[3].is_none()) {
      const HeldBuffer& buffer = buffers->emplace_back(fields[3], /*writable=*/false);
      object.payload = {buffer.data(), buffer.size()};
    }
    return object;
  }

  static absl::string_view BytesView(const py::handle& object) {
    char* data = nullptr;
    Py_ssize_t size = 0;
    if (PyBytes_AsStringAndSize(object.ptr(), &data, &size) != 0) throw py::error_already_set();
    return {data, static_cast<size_t>(size)};
  }

  spill::PosixFileSystem fs_;
  SteadyClock clock_;
  spill::PosixHost host_;
  std::unique_ptr<spill::Engine> engine_;
};

// Returns (object id, offset, object bytes, record bytes, damaged), or None if the name is not that of a link.
py::object ParseLinkNameToPython(const std::string& name) {
  const auto link = spill::ParseLinkName(name);
  if (!link) return py::none();
  return py::make_tuple(py::bytes(std::string(link->object_id.Binary())), link->offset, link->object_bytes,
                        spill::RecordBytes(link->object_bytes), link->damaged);
}

// Returns the object, or None for any reason. The caller then asks Ray.
std::unique_ptr<spill::SpilledObject> ReadSpilled(const std::string& path, uint64_t offset, uint64_t object_bytes,
                                                  const py::bytes& object_id, uint64_t most_live_bytes) {
  static auto* const fs = new spill::PosixFileSystem();
  const ObjectId id = ObjectIdOf(object_id);
  const spill::ParsedUrl url = {.path = path, .offset = offset, .object_bytes = object_bytes};
  py::gil_scoped_release unlocked;
  absl::StatusOr<std::unique_ptr<spill::SpilledObject>> object =
      spill::SpilledObject::Read(fs, url, id, most_live_bytes);
  return object.ok() ? *std::move(object) : nullptr;
}

void BindSpilledObject(py::module_& module) {
  py::class_<spill::SpilledObject>(module, "SpilledObject", py::buffer_protocol(),
                                   "A spilled object in this process's memory; the buffer is its payload.")
      .def_property_readonly("metadata",
                             [](const spill::SpilledObject& object) { return py::bytes(object.metadata()); })
      // Ray's code accepts only writable buffers, and makes read-only arrays of them.
      .def_buffer([](spill::SpilledObject& object) {
        const std::span<char> payload = object.payload();
        return py::buffer_info(reinterpret_cast<uint8_t*>(payload.data()), static_cast<py::ssize_t>(payload.size()));
      });
  module.def("read_spilled", &ReadSpilled, py::arg("path"), py::arg("offset"), py::arg("object_bytes"),
             py::arg("object_id"), py::arg("most_live_bytes"),
             "Reads and checks an object in a process that is not an IO worker. None: it cannot be read now, or "
             "the objects that this process holds would take more than most_live_bytes.");
  module.def("live_spilled_bytes", &spill::SpilledObject::LiveBytes,
             "Bytes of all objects that read_spilled returned and that are still in use.");
}

py::object ProcessStartTicks(int64_t pid) {
  const absl::StatusOr<spill::ProcessId> process = spill::PosixHost::Lookup(pid);
  if (absl::IsNotFound(process.status())) return py::none();
  if (!process.ok()) Raise(process.status());
  return py::int_(process->start_ticks);
}

void BindNames(py::module_& module) {
  module.attr("NODE_DIRECTORY_PREFIX") = std::string(spill::kNodeDirectoryPrefix);
  module.attr("OWNER_FILE") = std::string(spill::kOwnerFile);
  module.attr("TEMPORARY_PREFIX") = std::string(spill::kTemporaryPrefix);
  module.attr("DAMAGED_SUFFIX") = std::string(spill::kDamagedSuffix);
  module.attr("BLOCK_BYTES") = spill::kBlockBytes;
  module.attr("TRAILER_BYTES") = spill::kTrailerBytes;
  module.attr("PULL_NOTE_PREFIX") = std::string(spill::kPullNotePrefix);
  module.def(
      "open_pull_check_library",
      [] {
        const absl::StatusOr<int> fd = spill::OpenPullCheckLibrary();
        if (!fd.ok()) Raise(fd.status());
        return *fd;
      },
      "The descriptor of a new file in memory with the library that is preloaded into raylets. OSError: there are no "
      "such files here.");
  module.def("parse_link_name", &ParseLinkNameToPython, py::arg("name"),
             "(object id, offset, object bytes, record bytes, damaged) of a link's name, or None.");
  module.def(
      "process_start_ticks", &ProcessStartTicks, py::arg("pid"),
      "When the process started, in clock ticks since boot, or None when there is no such process. OSError: that "
      "cannot be found out.");
}

}  // namespace

void BindSpill(py::module_& module) {
  py::module_ spill_module = module.def_submodule("spill", "Object spilling: see docs/spilling.md.");
  exceptions = new Exceptions{
      py::exception<void>(spill_module, "SpillDamageError", PyExc_RuntimeError),
      py::exception<void>(spill_module, "SpillNoSpaceError", PyExc_OSError),
  };
  BindNames(spill_module);
  BindSpilledObject(spill_module);

  py::class_<PyReader>(spill_module, "ObjectReader", "One spilled object, opened and its header checked.")
      .def_property_readonly("owner_address", &PyReader::OwnerAddress)
      .def_property_readonly("metadata", &PyReader::Metadata)
      .def_property_readonly("payload_bytes", &PyReader::PayloadBytes)
      .def_property_readonly("checked", &PyReader::Checked, "Whether readinto can no longer find damage.")
      .def("readinto", &PyReader::ReadInto, py::arg("buffer"),
           "Fills a writable buffer of payload_bytes bytes and returns their number. SpillDamageError: do not publish "
           "it.")
      .def("verify", &PyReader::Verify, "Reads the payload without keeping it. SpillDamageError: it is damaged.");

  py::class_<PyEngine>(spill_module, "Engine", "The spill engine of one IO worker. Thread-safe.")
      .def(py::init<std::vector<std::string>, std::vector<uint64_t>, std::string, uint64_t, uint64_t,
                    std::optional<uint64_t>, const std::string&, uint64_t, int64_t, int64_t>(),
           py::kw_only(), py::arg("node_directories"), py::arg("devices") = std::vector<uint64_t>(),
           py::arg("state_directory") = std::string(), py::arg("max_segment_bytes"), py::arg("max_fused_bytes"),
           py::arg("reserve_bytes"), py::arg("cache_mode"), py::arg("read_ahead_bytes"), py::arg("punch_delay_ms"),
           py::arg("raylet_pid") = 0)
      .def("spill", &PyEngine::Spill, py::arg("objects"),
           "Spills [(object_id, owner_address, metadata, payload or None), ...]; URLs of the prefix that found room.")
      .def("keep_in_cache", &PyEngine::KeepInCache, py::arg("keep"),
           "Whether segments written from now on stay in the page cache, whatever cache_mode says.")
      .def("open", &PyEngine::Open, py::arg("url"), py::arg("object_id"), py::keep_alive<0, 1>())
      .def("set_aside", &PyEngine::SetAside, py::arg("url"), py::arg("reader"),
           "Renames a damaged object's link. False: the object was deleted or put back while it was read.")
      .def("replace", &PyEngine::Replace, py::arg("url"), py::arg("object"),
           "Writes (object_id, owner_address, metadata, payload or None) again under its old URL.")
      .def("owner_of", &PyEngine::OwnerOf, py::arg("url"),
           "The serialized address of the object's owner, or None if it is no longer recorded.")
      .def("stats", &PyEngine::Stats, "What the engine has done, by name.")
      .def("delete", &PyEngine::Delete, py::arg("urls"))
      .def("tick", &PyEngine::Tick)
      .def("close", &PyEngine::Close)
      .def("close_delay_ms", &PyEngine::CloseDelayMs)
      .def("limitations", &PyEngine::Limitations)
      .def("unusable", &PyEngine::Unusable, "Why directories cannot be used now, 'path: reason'.");
}

}  // namespace mantaray::python
