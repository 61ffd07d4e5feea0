#pragma once
// GeoTIFF in and out.
#include <moraine/io/geotiff_reader.hpp>
#include <moraine/io/geotiff_writer.hpp>
