// ToolkitLibrary: a library of NVIDIA's that is loaded when it is first called, so that a plait
// built with CUDA starts where there is none.
#pragma once

#include <dlfcn.h>

#include <string>
#include <utility>

namespace plait::cuda {

class ToolkitLibrary {
 public:
  // `name` is what messages call it, `file` one like "libcudnn.so.9": looked for where the linker
  // looks (LD_LIBRARY_PATH above all), then in the toolkit's usual place.
  ToolkitLibrary(const std::string& name, const std::string& file)
      : handle_(dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ != nullptr) return;
    const std::string error = dlerror();
    handle_ = dlopen(("/usr/local/cuda/lib64/" + file).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) return;
    missing_ = name + " is not there: " + error + "; set LD_LIBRARY_PATH to the folder that has it";
  }

  // Why it cannot be used; empty if it can.
  const std::string& missing() const { return missing_; }
  void Refuse(std::string why) {
    handle_ = nullptr;
    missing_ = std::move(why);
  }

  // Null where it has no such function, or cannot be used.
  template <class Function>
  Function* Find(const char* function) const {
    return handle_ == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(handle_, function));
  }

 private:
  void* handle_;
  std::string missing_;
};

}  // namespace plait::cuda
