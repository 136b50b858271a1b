# CMake runs this file inside Horovod's project, right after project(). build_horovod.sh has read SETUP_CXX_STANDARD from the header of
# the installed torch.

# No folder of this compilation, such as torch's as seen through /tmp, is written into the library. torch and its NCCL are loaded
# before Horovod's library is, so no search path is needed. project() has made a cache entry of that name, which replaced the value of
# an earlier file.
set(CMAKE_SKIP_RPATH TRUE CACHE BOOL "No search path in libraries" FORCE)

# torch's headers refuse an older C++ standard than their own. gloo must use the same standard: with two standards in one library,
# its constants have two definitions, and linking fails.
function(raise_cxx_standard)
  foreach(target pytorch gloo)
    if(TARGET ${target})
      set_property(TARGET ${target} PROPERTY CXX_STANDARD $ENV{SETUP_CXX_STANDARD})
    endif()
  endforeach()
endfunction()
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL raise_cxx_standard)

# A build for CPUs must not use an nvcc or a CUDA toolkit of the machine, complete or not. Otherwise Horovod would enable CMake's CUDA
# language and, because torch itself was built with CUDA, compile its CUDA sources.
if("$ENV{HOROVOD_GPU_OPERATIONS}" STREQUAL "")
  set(CMAKE_CUDA_COMPILER NOTFOUND)
  set(CMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit TRUE)
  macro(keep_pytorch_on_cpu variable access)
    if("${access}" STREQUAL "MODIFIED_ACCESS" AND ${variable})
      set(${variable} FALSE)
    endif()
  endmacro()
  variable_watch(Pytorch_CUDA keep_pytorch_on_cpu)
endif()
