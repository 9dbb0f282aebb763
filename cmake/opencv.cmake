# Sets OpenCV_LIBS and OpenCV_INCLUDE_DIRS. Debian's module packages (libopencv-core-dev, ...) bring no OpenCVConfig.cmake; the whole
# libopencv-dev is not needed.
find_package(OpenCV QUIET COMPONENTS core imgproc imgcodecs videoio)
if(NOT OpenCV_FOUND)
  find_path(OpenCV_INCLUDE_DIRS opencv2/core.hpp PATH_SUFFIXES opencv4 REQUIRED)
  foreach(module core imgproc imgcodecs videoio)
    find_library(OpenCV_${module} opencv_${module} REQUIRED)
    list(APPEND OpenCV_LIBS ${OpenCV_${module}})
  endforeach()
endif()
