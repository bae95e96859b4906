"""Images per CPU-second of the data side, against the reference's way of doing it with Pillow.

    python -m benchmarks.data [--size 256] [--canvas 576]

No download: the JPEGs are cut from scikit-learn's two photographs. Every row decodes the same
images; the rows take turns, so that a busy machine slows all of them alike, and the median round
counts. CPU-seconds are of this process, which uses one thread.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import simplejpeg
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images

from benchmarks.report import heading, processor, table
from configs.base import get_config
from dinov3_jax.config import CropConfig
from dinov3_jax.data import crops as host, order
from dinov3_jax.data.canvas import place
from dinov3_jax.data.decode import decode
from dinov3_jax.recipe import from_config_dict

_IMAGES = 24
_HEIGHT, _WIDTH = 375, 500  # the usual size of ImageNet's photographs, on
_CANVAS = 576  # pixels of a side; photographs grow with the canvas


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="pixels of a global crop")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every row")
    parser.add_argument("--canvas", type=int, default=_CANVAS, help="pixels of its side")
    arguments = parser.parse_args()
    canvas = arguments.canvas
    height, width = (side * canvas // _CANVAS for side in (_HEIGHT, _WIDTH))
    crops = crop_config(arguments.size)
    images = photographs(height, width)
    rows: dict[str, Callable[[bytes, int], object]] = {
        "decode": lambda data, i: decode(data),
        "decode + canvas (augment: device)": lambda data, i: device_way(data, i, crops, canvas),
        "decode + crops (augment: host)": lambda data, i: host_way(data, i, crops),
        "decode + crops with Pillow": lambda data, i: pillow_way(data, i, crops),
    }
    rates = measure(rows, images, rounds=arguments.rounds)
    kilobytes = sum(map(len, images)) / len(images) / 1e3
    print(
        f"{heading(processor(), 'simplejpeg', 'pillow')}; {width}x{height} JPEG of "
        f"{kilobytes:.0f} KB on average; 2 crops of {crops.global_size} and {crops.local_count} of "
        f"{crops.local_size} pixels\n"
    )
    slowest = rates["decode + crops with Pillow"]
    cells = [
        [name, f"{rate:.1f}", f"{1e3 / rate:.2f}", f"{rate / slowest:.1f}"]
        for name, rate in rates.items()
    ]
    print(table(("one thread", "images/CPU-s", "ms/image", "x Pillow"), cells))


def crop_config(size: int) -> CropConfig:
    config = get_config()
    config.crops.global_size = size
    config.crops.local_size = max(16, round(size * 7 / 16 / 16) * 16)  # 112 for 256, 96 for 224
    return from_config_dict(config).crops


def photographs(height: int, width: int) -> list[bytes]:
    """JPEGs of different parts of two photographs, enlarged, with noise as of a sensor."""
    rng = order.rng(0, "benchmark")
    encoded = []
    for i in range(_IMAGES):
        photo = load_sample_images().images[i % 2]
        top, left = rng.integers(0, 427 - 320), rng.integers(0, 640 - 427)
        part = host.resize(photo[top : top + 320, left : left + 427], height, width)
        noisy = part + rng.normal(0, 4, (height, width, 1))
        pixels = noisy.clip(0, 255).astype(np.uint8)
        encoded.append(simplejpeg.encode_jpeg(pixels, quality=92, colorsubsampling="420"))
    return encoded


def measure(rows, images: list[bytes], *, rounds: int) -> dict[str, float]:
    """Images per CPU-second of each row, median of ``rounds`` that take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(rounds + 1):
        for name, row in rows.items():
            start = time.process_time()
            for i, data in enumerate(images):
                row(data, i)
            if turn:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    return {name: len(images) / statistics.median(values) for name, values in seconds.items()}


def draw(index: int, height: int, width: int, crops: CropConfig) -> dict[str, np.ndarray]:
    return host.draw(order.rng(0, "augment", index), height=height, width=width, crops=crops)


def device_way(data: bytes, index: int, crops: CropConfig, side: int):
    image = decode(data, enough=side)
    canvas = np.zeros((side, side, 3), np.uint8)
    draws = draw(index, *image.shape[:2], crops)
    draws["box"] *= place(image, canvas)
    return canvas, draws


def host_way(data: bytes, index: int, crops: CropConfig):
    image = decode(data)
    return host.cut(image, draw(index, *image.shape[:2], crops), crops=crops)


def pillow_way(data: bytes, index: int, crops: CropConfig):
    """The reference's operations on PIL images with the same draws, to uint8."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    draws = {name: v.tolist() for name, v in draw(index, image.height, image.width, crops).items()}
    sizes = [crops.global_size] * 2 + [crops.local_size] * crops.local_count
    cut = []
    for i, size in enumerate(sizes):
        y, x, h, w = draws["box"][i]
        crop = image.crop((x, y, x + w, y + h)).resize((size, size), Image.Resampling.BICUBIC)
        if draws["flip"][i]:
            crop = ImageOps.mirror(crop)
        if draws["jitter"][i]:
            for operation in draws["order"][i]:
                crop = _PILLOW[operation](crop, draws["factors"][i][operation])
        if draws["gray"][i]:
            crop = crop.convert("L").convert("RGB")
        if draws["blur"][i]:
            crop = crop.filter(ImageFilter.GaussianBlur(draws["blur"][i]))
        if draws["solarize"][i]:
            crop = ImageOps.solarize(crop, 128)
        cut.append(np.asarray(crop))
    return cut


def _hue(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = Image.fromarray(np.asarray(hue) + np.uint8(int(turns * 255) % 256))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


_PILLOW = (
    lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    _hue,
)

if __name__ == "__main__":
    main()
