# moraine::compiled, moraine::io and moraine::cuda, for the build tree and the installed package
# alike: what is compiled is compiled in the project that uses it, so the package holds no binaries.
# Needs moraine::moraine and MORAINE_INCLUDE, the folder that holds moraine/.
if(TARGET moraine_compiled)
  return()
endif()

add_library(moraine_compiled STATIC EXCLUDE_FROM_ALL "${MORAINE_INCLUDE}/moraine/compiled.cpp")
target_link_libraries(moraine_compiled PUBLIC moraine::moraine)
target_compile_definitions(moraine_compiled PRIVATE MORAINE_COMPILING INTERFACE MORAINE_COMPILED)
# Kernels by vector extensions are slow without optimisation, also where the rest is a Debug build.
target_compile_options(moraine_compiled PRIVATE $<$<CONFIG:Debug>:-O2>)
set_target_properties(moraine_compiled PROPERTIES POSITION_INDEPENDENT_CODE ON)
add_library(moraine::compiled ALIAS moraine_compiled)

# A header of io/ whose package is missing here fails to compile and names the header that it needs.
add_library(moraine_io INTERFACE)
target_link_libraries(moraine_io INTERFACE moraine::moraine)
find_package(TIFF QUIET)
find_package(PNG QUIET)
find_package(JPEG QUIET)
find_package(ZLIB QUIET)
set(_moraine_missing "")
foreach(_moraine_package TIFF PNG JPEG ZLIB)
  if(${_moraine_package}_FOUND)
    target_link_libraries(moraine_io INTERFACE ${_moraine_package}::${_moraine_package})
  else()
    list(APPEND _moraine_missing ${_moraine_package})
  endif()
endforeach()
foreach(_moraine_header rapidjson/reader.h stb_image_write.h)
  string(MAKE_C_IDENTIFIER "MORAINE_WITH_${_moraine_header}" _moraine_path)
  find_path(${_moraine_path} ${_moraine_header} PATH_SUFFIXES stb)
  mark_as_advanced(${_moraine_path})
  if(${_moraine_path})
    target_include_directories(moraine_io SYSTEM INTERFACE ${${_moraine_path}})
  else()
    list(APPEND _moraine_missing ${_moraine_header})
  endif()
endforeach()
if(_moraine_missing)
  list(JOIN _moraine_missing ", " _moraine_missing)
  message(STATUS "moraine::io lacks ${_moraine_missing}: scripts/setup.sh installs them")
endif()
add_library(moraine::io ALIAS moraine_io)

# A package never enables a language: a project that says LANGUAGES CXX CUDA gets moraine::cuda.
# Objects, not an archive: a linker drops a member of an archive that nobody refers to, and with it
# the kernels' registration.
get_property(_moraine_languages GLOBAL PROPERTY ENABLED_LANGUAGES)
if("CUDA" IN_LIST _moraine_languages)
  find_package(CUDAToolkit REQUIRED)
  add_library(moraine_cuda_objects OBJECT EXCLUDE_FROM_ALL "${MORAINE_INCLUDE}/moraine/cuda.cu")
  target_link_libraries(moraine_cuda_objects PRIVATE moraine::moraine CUDA::cudart CUDA::cublas)
  # Not CUDA_STANDARD: CMake 3.25 does not know nvcc's C++20.
  target_compile_options(moraine_cuda_objects PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
  set_target_properties(moraine_cuda_objects PROPERTIES POSITION_INDEPENDENT_CODE ON)
  add_library(moraine_cuda INTERFACE)
  target_sources(moraine_cuda INTERFACE $<TARGET_OBJECTS:moraine_cuda_objects>)
  target_link_libraries(moraine_cuda INTERFACE moraine::moraine CUDA::cudart CUDA::cublas)
  add_library(moraine::cuda ALIAS moraine_cuda)
endif()
