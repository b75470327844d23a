//! Matrix products by cuBLASLt: what NVIDIA's own library reaches on this device.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::result as lt;
use cudarc::cublaslt::sys::{
    cublasComputeType_t as Compute, cublasLtGetVersion, cublasLtHandle_t, cublasLtMatmulAlgo_t,
    cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t as DescAttribute,
    cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute,
    cublasLtMatrixLayout_t, cudaDataType_t as Type, is_culib_present,
};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};

use crate::cases::Random;

/// Room for the library's own intermediate results; what its documentation advises for Hopper.
const WORKSPACE: usize = 32 << 20;
/// `CUBLAS_OP_T` of cuBLAS's headers.
const TRANSPOSE: i32 = 1;
/// 8-bit floats are added up in the tensor core's own precision, as those who want them fast do.
const FAST: i8 = 1;

/// A type of number that products are measured for.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    input: Type,
    output: Type,
    compute: Compute,
    scale: Type,
    input_bytes: usize,
    output_bytes: usize,
    /// Random finite numbers of magnitudes around 1, from 32 random bits each.
    number: fn(u32) -> u16,
}

pub const KINDS: [Kind; 4] = [
    Kind {
        name: "bf16",
        input: Type::CUDA_R_16BF,
        output: Type::CUDA_R_16BF,
        compute: Compute::CUBLAS_COMPUTE_32F,
        scale: Type::CUDA_R_32F,
        input_bytes: 2,
        output_bytes: 2,
        number: |x| ((x >> 16 & 0x8000) | (120 + (x >> 8 & 7)) << 7 | x & 0x7f) as u16,
    },
    Kind {
        name: "fp16",
        input: Type::CUDA_R_16F,
        output: Type::CUDA_R_16F,
        compute: Compute::CUBLAS_COMPUTE_32F,
        scale: Type::CUDA_R_32F,
        input_bytes: 2,
        output_bytes: 2,
        number: |x| ((x >> 16 & 0x8000) | (8 + (x >> 12 & 7)) << 10 | x & 0x3ff) as u16,
    },
    Kind {
        name: "int8",
        input: Type::CUDA_R_8I,
        output: Type::CUDA_R_32I,
        compute: Compute::CUBLAS_COMPUTE_32I,
        scale: Type::CUDA_R_32I,
        input_bytes: 1,
        output_bytes: 4,
        number: |x| x as u16,
    },
    Kind {
        name: "fp8",
        input: Type::CUDA_R_8F_E4M3,
        output: Type::CUDA_R_16BF,
        compute: Compute::CUBLAS_COMPUTE_32F,
        scale: Type::CUDA_R_32F,
        input_bytes: 1,
        output_bytes: 2,
        number: |x| {
            let byte = |x: u32| (x & 0x80) | (2 + (x >> 4 & 7)) << 3 | x & 7;
            (byte(x) | byte(x >> 8) << 8) as u16
        },
    },
];

/// A product D = Aᵀ·B of random matrices, ready to run: A of `k × m`, B of `k × n`.
pub struct Product {
    kind: Kind,
    stream: Arc<CudaStream>,
    handle: cublasLtHandle_t,
    description: cublasLtMatmulDesc_t,
    layouts: [cublasLtMatrixLayout_t; 3],
    preference: cublasLtMatmulPreference_t,
    algorithm: cublasLtMatmulAlgo_t,
    a: CudaSlice<u8>,
    b: CudaSlice<u8>,
    d: CudaSlice<u8>,
    workspace: CudaSlice<u8>,
}

/// cuBLASLt's own version number, if it is there.
pub fn version() -> Option<usize> {
    // SAFETY: this loads the library and calls a function that takes nothing.
    unsafe { is_culib_present().then(|| cublasLtGetVersion()) }
}

impl Product {
    /// An error, in the library's or the driver's words, if they refuse this size.
    pub fn new(
        stream: &Arc<CudaStream>,
        kind: Kind,
        (m, n, k): (usize, usize, usize),
    ) -> Result<Product, String> {
        // SAFETY: this only loads the library.
        if !unsafe { is_culib_present() } {
            return Err("libcublasLt was not found".to_string());
        }
        let a = random(stream, kind, m * k * kind.input_bytes)?;
        let b = random(stream, kind, n * k * kind.input_bytes)?;
        let zeros = |bytes| stream.alloc_zeros::<u8>(bytes).map_err(|e| e.to_string());
        let (d, workspace) = (zeros(m * n * kind.output_bytes)?, zeros(WORKSPACE)?);
        let layout = |of, rows: usize, columns: usize| {
            lt::create_matrix_layout(of, rows as u64, columns as u64, rows as i64).map_err(said)
        };
        let mut product = Product {
            kind,
            stream: stream.clone(),
            handle: lt::create_handle().map_err(said)?,
            description: lt::create_matmul_desc(kind.compute, kind.scale).map_err(said)?,
            layouts: [
                layout(kind.input, k, m)?,
                layout(kind.input, k, n)?,
                layout(kind.output, m, n)?,
            ],
            preference: lt::create_matmul_pref().map_err(said)?,
            algorithm: cublasLtMatmulAlgo_t { data: [0; 8] },
            a,
            b,
            d,
            workspace,
        };
        product.choose().map_err(said)?;
        Ok(product)
    }

    /// Says what is to be computed, and lets the library choose how.
    fn choose(&mut self) -> Result<(), lt::CublasError> {
        let Product { handle, description, preference, .. } = *self;
        let [of_a, of_b, of_d] = self.layouts;
        let (transpose, fast, room) = (TRANSPOSE, FAST, WORKSPACE as u64);
        // SAFETY: every descriptor was made in `new` and lives until `drop`; attributes are set
        // from numbers of the width that the library's documentation gives for them.
        unsafe {
            lt::set_matmul_desc_attribute(
                description,
                DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const transpose).cast(),
                size_of::<i32>(),
            )?;
            if matches!(self.kind.input, Type::CUDA_R_8F_E4M3) {
                lt::set_matmul_desc_attribute(
                    description,
                    DescAttribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM,
                    (&raw const fast).cast(),
                    size_of::<i8>(),
                )?;
            }
            lt::set_matmul_pref_attribute(
                preference,
                PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const room).cast(),
                size_of::<u64>(),
            )?;
            let found = lt::get_matmul_algo_heuristic(
                handle,
                description,
                of_a,
                of_b,
                of_d,
                of_d,
                preference,
            )?;
            self.algorithm = found.algo;
        }
        Ok(())
    }

    /// Issues the product to the stream.
    pub fn run(&mut self) -> Result<(), String> {
        // One and zero, as floats or as integers.
        let (one, zero) = match self.kind.scale {
            Type::CUDA_R_32I => (1u32, 0u32),
            _ => (1f32.to_bits(), 0),
        };
        let stream = self.stream.clone();
        let (a, _a) = self.a.device_ptr(&stream);
        let (b, _b) = self.b.device_ptr(&stream);
        let (d, _d) = self.d.device_ptr_mut(&stream);
        let (workspace, _workspace) = self.workspace.device_ptr_mut(&stream);
        let [of_a, of_b, of_d] = self.layouts;
        // SAFETY: the descriptors live, the matrices have the sizes of their layouts, and both
        // factors are read before the call returns.
        let issued = unsafe {
            lt::matmul(
                self.handle,
                self.description,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                a as *const c_void,
                of_a,
                b as *const c_void,
                of_b,
                d as *const c_void,
                of_d,
                d as *mut c_void,
                of_d,
                &self.algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                stream.cu_stream().cast(),
            )
        };
        issued.map_err(said)
    }
}

fn said(error: lt::CublasError) -> String {
    format!("cuBLASLt: {error}")
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: each was made in `new` and is destroyed once. Errors would leave memory behind
        // in a program that is about to end.
        unsafe {
            let _ = self.stream.synchronize();
            let _ = lt::destroy_matmul_pref(self.preference);
            self.layouts.iter().for_each(|&layout| {
                let _ = lt::destroy_matrix_layout(layout);
            });
            let _ = lt::destroy_matmul_desc(self.description);
            let _ = lt::destroy_handle(self.handle);
        }
    }
}

/// Random numbers, a pattern of an odd length repeated: zeros or short periods would draw less
/// power than data does, and run faster.
fn random(stream: &Arc<CudaStream>, kind: Kind, bytes: usize) -> Result<CudaSlice<u8>, String> {
    let mut random = Random::new(bytes as u64);
    let pattern: Vec<u8> = (0..((32 << 20) / 2 - 7).min(bytes.div_ceil(2)))
        .flat_map(|_| (kind.number)((random.next() >> 32) as u32).to_le_bytes())
        .collect();
    let mut to = stream.alloc_zeros::<u8>(bytes).map_err(|e| e.to_string())?;
    let mut at = 0;
    while at < bytes {
        let part = pattern.len().min(bytes - at);
        stream
            .memcpy_htod(&pattern[..part], &mut to.slice_mut(at..at + part))
            .map_err(|e| e.to_string())?;
        at += part;
    }
    stream.synchronize().map_err(|e| e.to_string())?;
    Ok(to)
}
