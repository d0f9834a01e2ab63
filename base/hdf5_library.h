// What the owners of the HDF5 library (hdf5_file.cc, foreign_hdf5_file.cc) share. No header
// includes this one.
#pragma once

#include <hdf5.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

namespace plait::hdf5 {

// Owns one identifier of the library.
template <herr_t (*kClose)(hid_t)>
class Handle {
 public:
  explicit Handle(hid_t id) : id_(id) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (id_ >= 0) kClose(id_);
  }
  hid_t id() const { return id_; }
  bool ok() const { return id_ >= 0; }
  // After a failed write nothing is handed back to the library.
  void Abandon() { id_ = -1; }
  // The library writes what it buffered when a dataset is closed, so closing can fail.
  bool Close() { return kClose(std::exchange(id_, -1)) >= 0; }

 private:
  hid_t id_;
};
using DatasetHandle = Handle<H5Dclose>;
using SpaceHandle = Handle<H5Sclose>;
using TypeHandle = Handle<H5Tclose>;
using PropertyHandle = Handle<H5Pclose>;
using AttributeHandle = Handle<H5Aclose>;

// To be called before anything else of the library, on every thread: the error stack is per thread.
inline void EnterLibrary() {
  static std::once_flag once;
  std::call_once(once, [] {
    H5dont_atexit();
    H5open();
    H5Lunregister(H5L_TYPE_EXTERNAL);  // no link leads to another file
    H5PLset_loading_state(0);          // no plug-in is loaded because a file asks for it
  });
  thread_local const bool silenced = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
  (void)silenced;
}

struct Reason {
  std::string text;
  int error_number = 0;
};

// The innermost entry of the error stack. System errors there read "... errno = 28, error message =
// 'No space left on device', buf = ...": only the quoted part is kept.
inline Reason TakeReason() {
  std::string description;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned index, const H5E_error2_t* error, void* out) -> herr_t {
        if (index == 0 && error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
        return 0;
      },
      &description);
  Reason reason{description, 0};
  if (const size_t at = description.find("errno = "); at != std::string::npos) {
    reason.error_number = std::atoi(description.c_str() + at + 8);
  }
  if (size_t at = description.find("error message = '"); at != std::string::npos) {
    at += 17;
    reason.text = description.substr(at, description.find('\'', at) - at);
  }
  if (reason.text.empty()) reason.text = "no reason given by HDF5";
  std::replace(reason.text.begin(), reason.text.end(), '\n', ' ');
  return reason;
}

// Whether `name` exists; asks for every group on the way, as the library demands.
inline bool Exists(hid_t file, const std::string& name) {
  if (name == "/") return true;
  for (size_t slash = name.find('/');; slash = name.find('/', slash + 1)) {
    if (H5Lexists(file, name.substr(0, slash).c_str(), H5P_DEFAULT) <= 0) return false;
    if (slash == std::string::npos) return true;
  }
}

}  // namespace plait::hdf5
