// Pictures to pixel values and back, by the arithmetic of Pillow, so that a picture gets the codes it gets in Python.

const PRECISION = 2 ** 22; // Pillow resizes in fixed-point numbers with so many steps

/** Decodes a file, upright and laid over white: `{width, height, data}` with four bytes a pixel. */
export async function readPicture(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** Resizes the shortest edge and crops the middle, as `preprocessor_config.json` says: RGBA of `size` x `size`. */
export function fitPicture(picture, processor) {
  const edge = processor.size.shortest_edge;
  const shortest = Math.min(picture.width, picture.height);
  const longest = Math.floor((edge * Math.max(picture.width, picture.height)) / shortest);
  const [width, height] = picture.width <= picture.height ? [edge, longest] : [longest, edge];
  let resized = resizeAlong(picture, width, 1);
  resized = resizeAlong(resized, height, 0);
  const size = processor.crop_size.height;
  const left = Math.floor((width - size) / 2);
  const top = Math.floor((height - size) / 2);
  const cropped = new ImageData(size, size);
  for (let y = 0; y < size; y++) {
    const start = 4 * ((top + y) * width + left);
    cropped.data.set(resized.data.subarray(start, start + 4 * size), 4 * y * size);
  }
  return cropped;
}

/** RGBA bytes to the planes of floats that the encoder takes. */
export function toPixelValues(picture, processor) {
  const pixels = picture.width * picture.height;
  const values = new Float32Array(3 * pixels);
  for (let channel = 0; channel < 3; channel++) {
    const mean = processor.image_mean[channel];
    const deviation = processor.image_std[channel];
    for (let i = 0; i < pixels; i++) {
      values[channel * pixels + i] = (picture.data[4 * i + channel] / 255 - mean) / deviation;
    }
  }
  return values;
}

/** What the decoder gives, clipped and rounded, as RGBA bytes. */
export function toPicture(values, size) {
  const picture = new ImageData(size, size);
  const pixels = size * size;
  for (let i = 0; i < pixels; i++) {
    for (let channel = 0; channel < 3; channel++) {
      picture.data[4 * i + channel] = Math.round((values[channel * pixels + i] + 1) * 127.5); // the array clips
    }
    picture.data[4 * i + 3] = 255;
  }
  return picture;
}

/** Peak signal-to-noise ratio of two RGBA pictures in decibels. */
export function psnr(first, second) {
  let sum = 0;
  for (let i = 0; i < first.data.length; i += 4) {
    for (let channel = 0; channel < 3; channel++) {
      sum += (first.data[i + channel] - second.data[i + channel]) ** 2;
    }
  }
  return 10 * Math.log10((255 ** 2 * (first.data.length / 4) * 3) / sum);
}

/** One pass of an antialiased bicubic resize, along the width (1) or the height (0). */
function resizeAlong(picture, target, axis) {
  const source = axis ? picture.width : picture.height;
  if (source === target) return picture;
  const [width, height] = axis ? [target, picture.height] : [picture.width, target];
  const resized = new ImageData(width, height);
  const step = axis ? 4 : 4 * picture.width; // between neighbours along the axis
  const lines = axis ? height : width;
  const between = axis ? 4 * picture.width : 4; // between lines of the source
  const betweenTargets = axis ? 4 * width : 4;
  const targetStep = axis ? 4 : 4 * width;
  weights(source, target).forEach(({ first, factors }, position) => {
    for (let line = 0; line < lines; line++) {
      const place = line * betweenTargets + position * targetStep;
      for (let channel = 0; channel < 3; channel++) {
        let sum = PRECISION / 2;
        let from = line * between + first * step + channel;
        for (const factor of factors) {
          sum += picture.data[from] * factor;
          from += step;
        }
        resized.data[place + channel] = Math.floor(sum / PRECISION); // the array clips
      }
      resized.data[place + 3] = 255;
    }
  });
  return resized;
}

/** Of each place along an axis: the first source pixel and the fixed-point factors from there on. */
function weights(source, target) {
  const scale = source / target;
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  return Array.from({ length: target }, (_, position) => {
    const center = (position + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), source);
    const inverse = 1 / stretch;
    const raw = Array.from({ length: end - first }, (_, i) => bicubic((i + first - center + 0.5) * inverse));
    const total = raw.reduce((sum, value) => sum + value, 0);
    const factors = raw.map((value) => Math.trunc((value / total) * PRECISION + (value < 0 ? -0.5 : 0.5)));
    return { first, factors };
  });
}

function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}
