# CMake reads this file before Horovod's own CMakeLists.txt (CMAKE_TOOLCHAIN_FILE). It has horovod_hook.cmake included right after
# Horovod's project() call. Both are documented features of CMake, so Horovod's source stays as it was published.
set(CMAKE_PROJECT_horovod_INCLUDE "${CMAKE_CURRENT_LIST_DIR}/horovod_hook.cmake")

# No folder of this compilation, such as torch's as seen through /tmp, is written into the library. torch and its NCCL are loaded
# before Horovod's library is, so no search path is needed.
set(CMAKE_SKIP_RPATH TRUE)
