# The shared library for applications, and what `cmake --install` puts where.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_library(semiseg_library SHARED $<TARGET_OBJECTS:semiseg_log>)
target_link_libraries(semiseg_library PRIVATE semiseg_objects spdlog::spdlog)
target_include_directories(semiseg_library INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(semiseg_library INTERFACE cxx_std_20)
set_target_properties(semiseg_library PROPERTIES
  OUTPUT_NAME semiseg EXPORT_NAME semiseg VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})

# Both find LibTorch where it was found here.
set(run_path "$ORIGIN" "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}" "${TORCH_INSTALL_PREFIX}/lib")
if(IS_ABSOLUTE "${torch_openmp}")
  get_filename_component(openmp_folder "${torch_openmp}" DIRECTORY)
  list(APPEND run_path "${openmp_folder}")
endif()
set_target_properties(semiseg semiseg_library PROPERTIES INSTALL_RPATH "${run_path}")

install(TARGETS semiseg)
install(TARGETS semiseg_library EXPORT semisegTargets)
install(DIRECTORY include/semiseg TYPE INCLUDE)
install(DIRECTORY configs examples DESTINATION ${CMAKE_INSTALL_DATADIR}/semiseg)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/semiseg)
install(EXPORT semisegTargets NAMESPACE semiseg:: DESTINATION ${package_folder})
configure_package_config_file(cmake/semisegConfig.cmake.in ${CMAKE_BINARY_DIR}/semisegConfig.cmake
  INSTALL_DESTINATION ${package_folder} PATH_VARS CMAKE_INSTALL_DATADIR)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/semisegConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/semisegConfig.cmake ${CMAKE_BINARY_DIR}/semisegConfigVersion.cmake cmake/opencv.cmake
  DESTINATION ${package_folder})
