/* Decode a part of a JPEG with the system's libjpeg-turbo. The lines above the part are skipped, the lines below it are not
   read, and the blocks next to it are not transformed. app/data/crop_decoder.py calls this code through cffi.

   Unusual and damaged images are left to Pillow. So the result for an image is the same with and without this decoder. An
   error or warning of the library returns here by longjmp, so that the library never calls exit(). */

#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <jpeglib.h>

#define MARGIN 4 /* pixels, because the upsampling of chroma reads one sample beyond the part on each side */

struct failure {
  struct jpeg_error_mgr manager; /* must be first: a pointer to it is also a pointer to the struct */
  jmp_buf back;
};

static void give_up(j_common_ptr info) { longjmp(((struct failure *)info->err)->back, 1); }

static void give_up_on_warning(j_common_ptr info, int level) {
  if (level < 0) give_up(info);
}

static void print_nothing(j_common_ptr info) { (void)info; }

/* Return whether Pillow decodes the image to the same pixels. */
static int is_usual(const struct jpeg_decompress_struct *info, int width, int height) {
  int colours = info->jpeg_color_space;
  return info->image_width == (JDIMENSION)width && info->image_height == (JDIMENSION)height &&
         info->data_precision == 8 && !info->arith_code &&
         (colours == JCS_GRAYSCALE || colours == JCS_YCbCr || colours == JCS_RGB);
}

/* Return whether each coefficient of a progressive image is known to its last bit. If not, the library smooths blocks with
   the help of neighbouring blocks, which may be outside the part. */
static int is_complete(const struct jpeg_decompress_struct *info) {
  for (int component = 0; info->coef_bits && component < info->num_components; component++)
    for (int k = 0; k < DCTSIZE2; k++)
      if (info->coef_bits[component][k] != 0) return 0;
  return 1;
}

static int is_restart(int marker) { return marker >= JPEG_RST0 && marker <= JPEG_RST0 + 7; }

/* Return whether only coded pixels and the end marker follow. Pillow also reads the rest, and may refuse other content. */
static int ends_well(const struct jpeg_decompress_struct *info) {
  const unsigned char *at = info->src->next_input_byte, *end = at + info->src->bytes_in_buffer;
  if (info->unread_marker == JPEG_EOI) return at == end;
  if (info->unread_marker && !is_restart(info->unread_marker)) return 0;
  while ((at = memchr(at, 0xFF, end - at)) && end - at >= 2) {
    if (at[1] == JPEG_EOI) return end - at == 2;
    if (at[1] != 0 && !is_restart(at[1])) return 0;
    at += 2;
  }
  return 0;
}

/* Write the part of the image to `pixels`, row by row with 4 bytes for each pixel: red, green, blue, and a byte without
   meaning. Return 1, or 0 if Pillow has to decode the image. */
static int decode_rgbx(const unsigned char *data, size_t size, int width, int height, int left, int top, int right,
                       int bottom, unsigned char *pixels) {
  struct jpeg_decompress_struct info;
  struct failure failure;
  memset(&info, 0, sizeof info); /* so that destroying it is safe even if creating it fails */
  info.err = jpeg_std_error(&failure.manager);
  failure.manager.error_exit = give_up;
  failure.manager.emit_message = give_up_on_warning;
  failure.manager.output_message = print_nothing;
  if (setjmp(failure.back)) {
    jpeg_destroy_decompress(&info);
    return 0;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, (unsigned char *)data, size);
  jpeg_read_header(&info, TRUE);
  if (!is_usual(&info, width, height)) give_up((j_common_ptr)&info);
  info.out_color_space = JCS_EXT_RGBX;
  jpeg_start_decompress(&info);
  if (!is_complete(&info)) give_up((j_common_ptr)&info);

  JDIMENSION first = left > MARGIN ? left - MARGIN : 0;
  JDIMENSION columns = (right + MARGIN < width ? right + MARGIN : width) - first;
  jpeg_crop_scanline(&info, &first, &columns); /* moves `first` to the left, to the edge of a block */
  JSAMPARRAY row = info.mem->alloc_sarray((j_common_ptr)&info, JPOOL_IMAGE, columns * 4, 1);
  if (top > 0 && jpeg_skip_scanlines(&info, top) != (JDIMENSION)top) give_up((j_common_ptr)&info);
  for (size_t line = 0, length = (size_t)(right - left) * 4; line < (size_t)(bottom - top); line++) {
    jpeg_read_scanlines(&info, row, 1);
    memcpy(pixels + line * length, row[0] + (left - first) * 4, length);
  }
  if (!jpeg_has_multiple_scans(&info) && !ends_well(&info)) give_up((j_common_ptr)&info);
  jpeg_destroy_decompress(&info);
  return 1;
}
