//! safetensors, GGUF and PyTorch files: opening, telling what they are, and reading every tensor.
#![no_main]

use burn::tensor::Device;
use libfuzzer_sys::fuzz_target;
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::WeightSource;
use understudy_pipeline::recognize;

fuzz_target!(|bytes: &[u8]| {
    let file = understudy_fuzz::file(bytes);
    let Ok(checkpoint) = Checkpoint::open(file.path(), &Device::flex()) else { return };
    let _ = recognize(&checkpoint);
    for info in checkpoint.infos() {
        // A tensor is no larger than the file says, whatever its shape.
        assert!(info.bytes <= bytes.len() as u64 * 1100, "{info:?}");
        let _ = checkpoint.stored(&info.name);
        if let Ok((values, shape)) = checkpoint.values(&info.name) {
            assert_eq!(values.len(), shape.iter().product::<usize>());
        }
        let _ = checkpoint.integers(&info.name);
        if let [rows, columns] = info.shape[..]
            && rows > 0
        {
            let _ = checkpoint.rows(&info.name, [rows, columns], &[0, rows - 1]);
        }
    }
});
