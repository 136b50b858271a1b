/* Decodes a part of a JPEG with the system's libjpeg-turbo: it skips the lines above the part, does not read those below,
   and transforms no block beside it. app/data/crop_decoder.py calls it through cffi.

   Whatever is unusual or damaged is left to Pillow, which then decides: so an image has one outcome, with or without this
   decoder. An error or warning of the library comes back here by longjmp; nothing calls exit(). */

#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <jpeglib.h>

#define MARGIN 4 /* pixels: the upsampling of chroma reads one sample beyond the part on each side */

struct failure {
  struct jpeg_error_mgr manager; /* first, so that a pointer to it is a pointer to this */
  jmp_buf back;
};

static void give_up(j_common_ptr info) { longjmp(((struct failure *)info->err)->back, 1); }

static void give_up_on_warning(j_common_ptr info, int level) {
  if (level < 0) give_up(info);
}

static void print_nothing(j_common_ptr info) { (void)info; }

/* Whether the image is one that Pillow decodes to the same pixels. */
static int is_usual(const struct jpeg_decompress_struct *info, int width, int height) {
  int colours = info->jpeg_color_space;
  return info->image_width == (JDIMENSION)width && info->image_height == (JDIMENSION)height &&
         info->data_precision == 8 && !info->arith_code &&
         (colours == JCS_GRAYSCALE || colours == JCS_YCbCr || colours == JCS_RGB);
}

/* Whether each coefficient of a progressive image is known to its last bit. The library smooths blocks where it is not,
   by their neighbours, which a part need not have. */
static int is_complete(const struct jpeg_decompress_struct *info) {
  for (int component = 0; info->coef_bits && component < info->num_components; component++)
    for (int k = 0; k < DCTSIZE2; k++)
      if (info->coef_bits[component][k] != 0) return 0;
  return 1;
}

static int is_restart(int marker) { return marker >= JPEG_RST0 && marker <= JPEG_RST0 + 7; }

/* Whether nothing but coded pixels and the end marker follow. Pillow reads the rest too, and may refuse what else is there. */
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

/* Writes the part of the image, RGB, row by row into `pixels`. Returns 1, or 0 where Pillow has to decode. */
static int decode_region(const unsigned char *data, size_t size, int width, int height, int left, int top, int right,
                         int bottom, unsigned char *pixels) {
  struct jpeg_decompress_struct info;
  struct failure failure;
  memset(&info, 0, sizeof info); /* destroying is safe even where creating fails */
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
  info.out_color_space = JCS_RGB;
  jpeg_start_decompress(&info);
  if (!is_complete(&info)) give_up((j_common_ptr)&info);

  JDIMENSION first = left > MARGIN ? left - MARGIN : 0;
  JDIMENSION columns = (right + MARGIN < width ? right + MARGIN : width) - first;
  jpeg_crop_scanline(&info, &first, &columns); /* moves `first` to the left, to the edge of a block */
  JSAMPARRAY row = info.mem->alloc_sarray((j_common_ptr)&info, JPOOL_IMAGE, columns * 3, 1);
  if (top > 0 && jpeg_skip_scanlines(&info, top) != (JDIMENSION)top) give_up((j_common_ptr)&info);
  for (size_t line = 0, length = (size_t)(right - left) * 3; line < (size_t)(bottom - top); line++) {
    jpeg_read_scanlines(&info, row, 1);
    memcpy(pixels + line * length, row[0] + (left - first) * 3, length);
  }
  if (!jpeg_has_multiple_scans(&info) && !ends_well(&info)) give_up((j_common_ptr)&info);
  jpeg_destroy_decompress(&info);
  return 1;
}
