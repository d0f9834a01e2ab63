# Flags shared by every target, and the two functions that make a folder's library and its tests.
add_library(plait_flags INTERFACE)
target_include_directories(plait_flags INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/generated)
# -ffp-contract=off: rounding must not depend on what the compiler chooses to fuse; kernels fuse by name.
target_compile_options(plait_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wno-missing-field-initializers
    -ffp-contract=off -fno-math-errno $<$<BOOL:${PLAIT_PRECOMPILE}>:-fpch-preprocess>>)
# No executable exports what it took from an archive: see Protobuf in dependencies.cmake.
target_link_options(plait_flags INTERFACE LINKER:--exclude-libs,ALL)
# Programs can be moved together with the libraries that they need (tools/make_bundle.sh). RPATH, not RUNPATH: it holds
# for what those libraries need in turn.
set(CMAKE_BUILD_RPATH "\$ORIGIN/../lib" "\$ORIGIN/../lib/openmpi")
target_link_options(plait_flags INTERFACE LINKER:--disable-new-dtags)
if(PLAIT_SANITIZE)
  target_compile_options(plait_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${PLAIT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(plait_flags INTERFACE -fsanitize=${PLAIT_SANITIZE})
endif()

# Every test's environment. Idle OpenMP threads must not spin: tests run side by side on few cores.
set(PLAIT_TEST_ENVIRONMENT OMP_WAIT_POLICY=passive)
if(PLAIT_SANITIZE MATCHES "address")
  list(APPEND PLAIT_TEST_ENVIRONMENT
    ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_init_order=1
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1)
elseif(PLAIT_SANITIZE MATCHES "thread")
  # libgomp is not instrumented: ThreadSanitizer does not see its barriers and would report every team. The limit,
  # unlike OMP_NUM_THREADS, also holds where code asks for threads by number.
  list(APPEND PLAIT_TEST_ENVIRONMENT OMP_THREAD_LIMIT=1 OMP_NUM_THREADS=1
    TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:ignore_noninstrumented_modules=1)
endif()

# What most files include and is slow to read is read once a build: 2 of the 4 seconds a file takes. Files still include
# what they use: the tsan preset builds without. GCC refuses a precompiled header made with other flags, so files
# with OpenMP get their own.
if(PLAIT_PRECOMPILE)
  set(precompiled <algorithm> <cmath> <cstdint> <filesystem> <functional> <map> <memory> <optional> <span> <string>
    <vector> <absl/status/statusor.h> <absl/strings/str_cat.h> <absl/strings/str_format.h>)
  file(WRITE ${PROJECT_BINARY_DIR}/precompiled/empty.cc "")
  function(plait_precompiled name)
    cmake_parse_arguments(ARG "" "" "HEADERS;DEPENDS" ${ARGN})
    add_library(plait_${name} OBJECT ${PROJECT_BINARY_DIR}/precompiled/empty.cc)
    target_link_libraries(plait_${name} PRIVATE plait_flags absl::statusor absl::str_format ${ARG_DEPENDS})
    target_precompile_headers(plait_${name} PRIVATE ${precompiled} ${ARG_HEADERS})
  endfunction()
  plait_precompiled(precompiled)
  plait_precompiled(precompiled_openmp DEPENDS OpenMP::OpenMP_CXX)
  if(PLAIT_TESTS)
    plait_precompiled(precompiled_tests HEADERS <gmock/gmock.h> <gtest/gtest.h> DEPENDS GTest::gmock)
  endif()
endif()

# plait_library(<folder target> SOURCES ... DEPENDS ...): one target a folder, with its exact links.
function(plait_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  add_library(plait_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(plait_${name} PUBLIC plait_flags ${ARG_DEPENDS} PRIVATE ${ARG_PRIVATE_DEPENDS})
  if(PLAIT_PRECOMPILE AND "OpenMP::OpenMP_CXX" IN_LIST ARG_PRIVATE_DEPENDS)
    target_precompile_headers(plait_${name} REUSE_FROM plait_precompiled_openmp)
  elseif(PLAIT_PRECOMPILE)
    target_precompile_headers(plait_${name} REUSE_FROM plait_precompiled)
  endif()
endfunction()

# plait_test(<name> SOURCES ... DEPENDS ... [LABELS ...] [TIMEOUT seconds] [DEVICE_NAME <name>]): one executable; CTest
# runs it whole. DEVICE_NAME: of the same objects, linked with CUDA in place of the emulation: label gpu, skipped where
# there is no device.
function(plait_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT;DEVICE_NAME" "SOURCES;DEPENDS;LABELS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS fast)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set(compiled ${name})
  if(ARG_DEVICE_NAME)
    set(compiled ${name}_objects)
    add_library(${compiled} OBJECT ${ARG_SOURCES})
    target_link_libraries(${compiled} PRIVATE ${ARG_DEPENDS} plait_test_support GTest::gmock)
    set(ARG_SOURCES $<TARGET_OBJECTS:${compiled}>)
    add_executable(${ARG_DEVICE_NAME} ${ARG_SOURCES})
    target_link_libraries(${ARG_DEVICE_NAME} PRIVATE ${ARG_DEPENDS} plait_test_support plait_device_main GTest::gmock)
    set_target_properties(${ARG_DEVICE_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests
      LINKER_LANGUAGE CXX)
    add_test(NAME ${ARG_DEVICE_NAME} COMMAND ${ARG_DEVICE_NAME} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(${ARG_DEVICE_NAME} PROPERTIES LABELS gpu TIMEOUT ${ARG_TIMEOUT} SKIP_RETURN_CODE 77
      RESOURCE_LOCK gpu ENVIRONMENT "${PLAIT_TEST_ENVIRONMENT}")
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} plait_test_support GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests
    PLAIT_EMULATED_DEVICE ON LINKER_LANGUAGE CXX)
  if(PLAIT_PRECOMPILE)
    target_precompile_headers(${compiled} REUSE_FROM plait_precompiled_tests)
  endif()
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
    ENVIRONMENT "${PLAIT_TEST_ENVIRONMENT}")
endfunction()

# plait_protos(<target> PROTOS <paths from the project root>): C++ messages, included as "<path>.pb.h".
function(plait_protos name)
  cmake_parse_arguments(ARG "" "" "PROTOS" ${ARGN})
  set(sources)
  file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/generated)
  foreach(proto ${ARG_PROTOS})
    string(REGEX REPLACE "\\.proto$" "" stem ${PROJECT_BINARY_DIR}/generated/${proto})
    add_custom_command(OUTPUT ${stem}.pb.cc ${stem}.pb.h
      COMMAND protobuf::protoc --proto_path=${PROJECT_SOURCE_DIR} --cpp_out=${PROJECT_BINARY_DIR}/generated
        ${PROJECT_SOURCE_DIR}/${proto}
      DEPENDS ${PROJECT_SOURCE_DIR}/${proto} VERBATIM)
    list(APPEND sources ${stem}.pb.cc ${stem}.pb.h)
  endforeach()
  add_library(${name} STATIC ${sources})
  target_include_directories(${name} SYSTEM PUBLIC ${PROJECT_BINARY_DIR}/generated)
  target_link_libraries(${name} PUBLIC protobuf::libprotobuf PRIVATE plait_flags)
endfunction()
