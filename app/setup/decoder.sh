# Compile the decoder of parts of JPEGs for this machine's libjpeg-turbo and Python. Without it, Pillow decodes all images.
# shellcheck shell=bash disable=SC2154

install_decoder() {
  local site key
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  key="$(cat "$here/decoder.c" "$here/decoder.sh" | sha256sum) $("$python" -VV), libjpeg $(libjpeg_version)"
  is_done decoder "$key" && return
  rm -f "$site"/_jpeg_region.*
  # This runs in a subshell, because `logged` exits if the command fails.
  if (logged "compiling the decoder of parts of JPEGs" compile_decoder "$site"); then
    write "$finished/decoder" "$key"
  else
    say "Images will be decoded by Pillow alone, to the same pixels in more time. The decoder needs libjpeg-turbo 1.5 or newer."
  fi
}

libjpeg_version() { printf '#include <stdio.h>\n#include <jpeglib.h>\nLIBJPEG_TURBO_VERSION\n' | g++ -E -x c++ - 2>/dev/null | tail -n 1; }

# compile_decoder FOLDER: writes _jpeg_region.*.so to FOLDER. An incomplete file never has this name.
compile_decoder() {
  local work
  work=$(mktemp -d)
  "$python" - "$here/decoder.c" "$work" <<'PYTHON' && mv -f "$work"/_jpeg_region.*.so "$1"
import pathlib, sys, cffi
builder = cffi.FFI()
builder.cdef("int decode_rgbx(const unsigned char *data, size_t size, int width, int height, int left, int top, int right,"
             " int bottom, unsigned char *pixels);")
builder.set_source("_jpeg_region", pathlib.Path(sys.argv[1]).read_text(), libraries=["jpeg"])
builder.compile(tmpdir=sys.argv[2])
PYTHON
  local status=$?
  rm -rf "$work"
  return "$status"
}
