"""Side `onnxruntime` of latency.py: what `big_vit_lite.export --format onnx` wrote."""

import turns


def main() -> None:
    options = turns.read_options()
    import onnxruntime

    model, tower = options.case.split("_")
    name = "logits" if model == "vit" else f"{tower}_features"
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(
        options.folder / f"{model}-onnx" / f"{name}.onnx",
        settings,
        providers=["CPUExecutionProvider"],
    )
    [given] = session.get_inputs()
    versions = {"onnxruntime": onnxruntime.__version__}
    turns.serve(
        options,
        {"versions": versions},
        lambda x: x,
        lambda x: session.run(None, {given.name: x})[0],
    )


if __name__ == "__main__":
    main()
