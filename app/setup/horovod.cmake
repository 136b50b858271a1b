# CMake reads this file before Horovod's own CMakeLists.txt (CMAKE_TOOLCHAIN_FILE). It has horovod_hook.cmake included right after
# Horovod's project() call. Both are documented features of CMake, so Horovod's own CMake files stay as they were published.
set(CMAKE_PROJECT_horovod_INCLUDE "${CMAKE_CURRENT_LIST_DIR}/horovod_hook.cmake")
