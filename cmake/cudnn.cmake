# Headers of cuDNN 9 and of cudnn-frontend (a library of headers), for kernels/cuda/cudnn_attention.cc and
# kernels/cuda/cudnn_library.cc alone; libcudnn.so.9 itself is loaded when a run asks for it. Each is looked for in the
# folder that is named, then in build/cuda-libraries (tools/install_cuda_libraries.sh), in Python's packages
# nvidia-cudnn-frontend and nvidia-cudnn-cu13, in the toolkit.
set(PLAIT_CUDNN_FRONTEND_ROOT "" CACHE PATH "Folder with include/cudnn_frontend.h; empty: found")
set(PLAIT_CUDNN_ROOT "" CACHE PATH "Folder with include/cudnn.h of cuDNN 9; empty: found")
set(PLAIT_HAS_CUDNN OFF)

# Sets `result` to the folder that holds `header`, asking each package folder of Python for it.
function(plait_find_cudnn_header result header root package)
  # Not kept from one configuration to the next: what is installed in between comes first.
  unset(${result} CACHE)
  if(root)
    find_path(${result} ${header} PATHS ${root}/include ${root} NO_DEFAULT_PATH)
  else()
    execute_process(COMMAND python3 -c "import sysconfig; print(sysconfig.get_paths()['purelib'])"
      OUTPUT_VARIABLE packages OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    set(installed ${PROJECT_SOURCE_DIR}/build/cuda-libraries)
    find_path(${result} ${header}
      HINTS ${installed}/${package} ${packages}/${package} ${CUDAToolkit_INCLUDE_DIRS} /usr/local/cuda/include)
  endif()
  mark_as_advanced(${result})
endfunction()

if(NOT PLAIT_HAS_CUDA)
  set(reason "a build without CUDA")
else()
  plait_find_cudnn_header(PLAIT_CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h "${PLAIT_CUDNN_FRONTEND_ROOT}" include)
  plait_find_cudnn_header(PLAIT_CUDNN_INCLUDE_DIR cudnn_version.h "${PLAIT_CUDNN_ROOT}" nvidia/cudnn/include)
  if(NOT PLAIT_CUDNN_FRONTEND_INCLUDE_DIR)
    set(reason "no cudnn_frontend.h; run tools/install_cuda_libraries.sh or set PLAIT_CUDNN_FRONTEND_ROOT")
  elseif(NOT PLAIT_CUDNN_INCLUDE_DIR)
    set(reason "no cudnn_version.h; run tools/install_cuda_libraries.sh or set PLAIT_CUDNN_ROOT")
  else()
    file(STRINGS ${PLAIT_CUDNN_INCLUDE_DIR}/cudnn_version.h lines REGEX "define CUDNN_(MAJOR|MINOR|PATCHLEVEL) ")
    string(REGEX MATCHALL "[0-9]+" version "${lines}")
    list(JOIN version "." version)
    if(version VERSION_LESS 9.8 OR version VERSION_GREATER_EQUAL 10)
      set(reason "${PLAIT_CUDNN_INCLUDE_DIR} is cuDNN ${version}; 9.8 or newer of 9 is needed")
    else()
      set(PLAIT_HAS_CUDNN ON)
      set(reason "${version}, ${PLAIT_CUDNN_INCLUDE_DIR}; ${PLAIT_CUDNN_FRONTEND_INCLUDE_DIR}")
    endif()
  endif()
endif()
message(STATUS "plait: cuDNN attention ${PLAIT_HAS_CUDNN} (${reason})")
