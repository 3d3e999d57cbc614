# Defines cna::eigen, cna::fmt, cna::json and, if CNA_TORCH is on, cna::libtorch from what is
# installed.
#
# LibTorch is the one of the Python environment (or the caller's own find_package(Torch)), taken by
# folder: Torch's own CMake package asks for a CUDA toolkit, which running on CUDA does not need.
include_guard(GLOBAL)

# Folders of Python packages: what the caller gave, else the interpreter's on the PATH.
set(_cna_prefixes ${CMAKE_PREFIX_PATH})
if(DEFINED SKBUILD_PLATLIB_DIR)
  list(APPEND _cna_prefixes "${SKBUILD_PLATLIB_DIR}")
endif()
# An installed package lies in <site-packages>/cna/share/cmake/cna.
get_filename_component(_cna_site "${CMAKE_CURRENT_LIST_DIR}/../../../.." ABSOLUTE)
list(APPEND _cna_prefixes "${_cna_site}")
if(NOT CNA_TORCH OR (NOT CNA_TORCH_ROOT AND NOT TARGET torch))
  find_program(CNA_PYTHON_PROGRAM NAMES python3 python)
  if(CNA_PYTHON_PROGRAM)
    execute_process(
      COMMAND "${CNA_PYTHON_PROGRAM}" -c "import sysconfig; print(sysconfig.get_path('platlib'))"
      OUTPUT_VARIABLE _cna_platlib OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    list(APPEND _cna_prefixes "${_cna_platlib}")
  endif()
endif()

# --- LibTorch ---------------------------------------------------------------------------------
if(NOT CNA_TORCH)
  # The core alone: torch is not looked for.
elseif(TARGET torch)
  add_library(cna::libtorch INTERFACE IMPORTED GLOBAL)
  target_link_libraries(cna::libtorch INTERFACE torch)
  set(CNA_TORCH_ROOT "${TORCH_INSTALL_PREFIX}")
else()
  find_path(CNA_TORCH_ROOT share/cmake/Torch/TorchConfig.cmake
    HINTS ${Torch_DIR}/../../.. ${_cna_prefixes} ENV CNA_TORCH_ROOT
    PATH_SUFFIXES torch ../.. NO_DEFAULT_PATH
    DOC "Folder of the installed torch package (holds include/ and lib/)")
  if(NOT CNA_TORCH_ROOT)
    message(FATAL_ERROR
      "cna: expected an installed PyTorch, found none; install it and build in the same environment:\n"
      "  pip install torch\n  pip install .\n"
      "If it is installed there, the build ran in an environment of its own (uv, build, pipx); build in "
      "yours:\n"
      "  pip install scikit-build-core cmeel-eigen nlohmann-json\n"
      "  pip install --no-build-isolation .\n"
      "From CMake alone, pass -DCNA_TORCH_ROOT=<site-packages>/torch.\n"
      "For the core without models, pass -DCNA_TORCH=OFF.")
  endif()
  get_filename_component(CNA_TORCH_ROOT "${CNA_TORCH_ROOT}" REALPATH)
  set(_lib "${CNA_TORCH_ROOT}/lib/${CMAKE_SHARED_LIBRARY_PREFIX}")
  set(_ext "${CMAKE_SHARED_LIBRARY_SUFFIX}")
  add_library(cna::libtorch INTERFACE IMPORTED GLOBAL)
  target_include_directories(cna::libtorch SYSTEM INTERFACE
    "${CNA_TORCH_ROOT}/include" "${CNA_TORCH_ROOT}/include/torch/csrc/api/include")
  target_link_libraries(cna::libtorch INTERFACE "${_lib}torch_cpu${_ext}" "${_lib}c10${_ext}")
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    # libtorch.so names the CUDA backend: keep it although no symbol of it is used, and leave the
    # NVIDIA libraries to run time.
    target_link_options(cna::libtorch INTERFACE
      "LINKER:--push-state,--no-as-needed,${_lib}torch${_ext},--pop-state"
      "LINKER:--allow-shlib-undefined")
  else()
    target_link_libraries(cna::libtorch INTERFACE "${_lib}torch${_ext}")
  endif()
endif()
# The version file reports through PACKAGE_VERSION, which belongs to our caller here.
function(_cna_read_torch_version)
  include("${CNA_TORCH_ROOT}/share/cmake/Torch/TorchConfigVersion.cmake")
  set(CNA_TORCH_VERSION "${PACKAGE_VERSION}" PARENT_SCOPE)
endfunction()
if(CNA_TORCH)
  _cna_read_torch_version()
  if(CNA_TORCH_VERSION VERSION_LESS 2.9)
    message(FATAL_ERROR "cna: expected PyTorch 2.9 or newer, found ${CNA_TORCH_VERSION} in "
      "${CNA_TORCH_ROOT}; pip install --upgrade torch")
  endif()
  message(STATUS "cna: PyTorch ${CNA_TORCH_VERSION} (${CNA_TORCH_ROOT})")
  get_filename_component(_cna_torch_site "${CNA_TORCH_ROOT}" DIRECTORY)
  list(APPEND _cna_prefixes "${_cna_torch_site}")
endif()

# --- fmt: the headers inside torch, so that one process sees one version; without torch the
# system's, or the wheel cmeel-fmt --------------------------------------------------------------
add_library(cna::fmt INTERFACE IMPORTED GLOBAL)
set(_cna_fmt "")
if(CNA_TORCH AND EXISTS "${CNA_TORCH_ROOT}/include/fmt/format.h")
  set(_cna_fmt "${CNA_TORCH_ROOT}/include")
else()
  find_package(fmt QUIET GLOBAL)  # GLOBAL: also for the project that took cna by FetchContent
  if(NOT TARGET fmt::fmt-header-only)
    find_path(CNA_FMT_INCLUDE fmt/format.h
      HINTS ${_cna_prefixes} PATH_SUFFIXES cmeel.prefix/include include
      DOC "Folder that holds fmt/format.h")
    if(NOT CNA_FMT_INCLUDE)
      message(FATAL_ERROR "cna: expected fmt, found none; pip install cmeel-fmt")
    endif()
    set(_cna_fmt "${CNA_FMT_INCLUDE}")
  endif()
endif()
if(_cna_fmt)
  target_include_directories(cna::fmt SYSTEM INTERFACE "${_cna_fmt}")
  target_compile_definitions(cna::fmt INTERFACE FMT_HEADER_ONLY=1)
else()
  target_link_libraries(cna::fmt INTERFACE fmt::fmt-header-only)
endif()

# --- Eigen: the system's, or the wheel cmeel-eigen ---------------------------------------------
find_path(CNA_EIGEN_INCLUDE Eigen/Core
  HINTS ${_cna_prefixes}
  PATH_SUFFIXES cmeel.prefix/include/eigen3 include/eigen3 eigen3
  DOC "Folder that holds Eigen/Core (3.4 or newer)")
if(NOT CNA_EIGEN_INCLUDE)
  message(FATAL_ERROR "cna: expected Eigen 3.4, found none; pip install cmeel-eigen")
endif()
add_library(cna::eigen INTERFACE IMPORTED GLOBAL)
target_include_directories(cna::eigen SYSTEM INTERFACE "${CNA_EIGEN_INCLUDE}")
# Arrays cross the library's boundary, so both sides must allocate and free in one way. Eigen picks
# its way by the compiler's flags: with AVX (as by -march=native) it aligns to 32 or 64 bytes, with
# AddressSanitizer it does not trust malloc, and then `free` meets another pointer than `malloc` gave
# out. Both choices are made here, for every target that links cna: what Eigen picks by itself for a
# plain 64-bit build. Either one alone is not enough.
if(CMAKE_SIZEOF_VOID_P EQUAL 8)
  set(_cna_malloc_is_aligned 1)  # malloc gives out multiples of 16
else()
  set(_cna_malloc_is_aligned 0)
endif()
target_compile_definitions(cna::eigen INTERFACE
  EIGEN_MAX_ALIGN_BYTES=16 EIGEN_MALLOC_ALREADY_ALIGNED=${_cna_malloc_is_aligned})

# --- nlohmann json: only to build cna itself ---------------------------------------------------
find_path(CNA_JSON_INCLUDE nlohmann/json.hpp
  HINTS ${_cna_prefixes} PATH_SUFFIXES nlohmann_json/include include
  DOC "Folder that holds nlohmann/json.hpp")
if(CNA_JSON_INCLUDE)
  add_library(cna::json INTERFACE IMPORTED GLOBAL)
  target_include_directories(cna::json SYSTEM INTERFACE "${CNA_JSON_INCLUDE}")
elseif(PROJECT_NAME STREQUAL "cna")
  message(FATAL_ERROR "cna: expected nlohmann/json.hpp, found none; pip install nlohmann-json")
endif()
