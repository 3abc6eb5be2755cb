"""tf.data with decode_and_crop_jpeg, as the published ViT recipes feed TPUs. Uint8 batches."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf  # noqa: E402
import turns  # noqa: E402


def main() -> None:
    options = turns.read_options()
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    size = (options.size, options.size)

    def example(data):
        shape = tf.image.extract_jpeg_shape(data)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.zeros([0, 0, 4], tf.float32),
            area_range=turns.SCALE,
            aspect_ratio_range=turns.RATIO,
            min_object_covered=0,
            use_image_if_no_bounding_boxes=True,
        )
        top, left, _ = tf.unstack(begin)
        height, width, _ = tf.unstack(extent)
        pixels = tf.image.decode_and_crop_jpeg(data, [top, left, height, width], channels=3)
        pixels = tf.cast(tf.image.resize(pixels, size), tf.uint8)
        return tf.image.random_flip_left_right(pixels)

    data = turns.jpegs(options.data)
    photographs = tf.data.Dataset.from_tensor_slices(data).shuffle(len(data)).repeat()
    batches = photographs.map(example, num_parallel_calls=options.threads, deterministic=False)
    batches = batches.batch(options.batch, drop_remainder=True).prefetch(2)
    threading = tf.data.Options()
    threading.threading.private_threadpool_size = options.threads
    threading.threading.max_intra_op_parallelism = 1
    batches = batches.with_options(threading)

    turns.serve(
        options,
        {"tensorflow": tf.__version__},
        lambda turn, n: batches.take(n).as_numpy_iterator(),
        ahead=2,
    )


if __name__ == "__main__":
    main()
