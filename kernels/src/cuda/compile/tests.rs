use super::*;

fn compiler() -> Compiler {
    Compiler { version: (13, 0) }
}

#[test]
fn architectures_have_nvidias_names() {
    assert_eq!(architecture((8, 0)), "sm_80");
    assert_eq!(architecture((8, 9)), "sm_89");
    assert_eq!(architecture((9, 0)), "sm_90a");
    assert_eq!(architecture((10, 0)), "sm_100");
}

#[test]
fn a_kept_kernel_is_used_without_compiling() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().join("made/when/needed"));
    let path = cache.path(&compiler(), RESCORE, "sm_90a");
    keep(&path, b"machine code").unwrap();
    keep(&path, b"machine code").unwrap();
    assert_eq!(cache.cubin(&compiler(), RESCORE, "sm_90a").unwrap(), b"machine code");
    let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(left, 1, "nothing partial stays");
}

#[test]
fn everything_that_determines_the_code_is_in_its_name() {
    let cache = Cache::new("/kernels");
    let path = cache.path(&compiler(), RESCORE, "sm_90a");
    assert_eq!(path, cache.path(&compiler(), RESCORE, "sm_90a"));
    let edited = Kernel { text: "__global__ void rescore() {}", ..RESCORE };
    let newer = Compiler { version: (13, 1) };
    for other in [
        cache.path(&compiler(), CANDIDATES, "sm_90a"),
        cache.path(&compiler(), RESCORE, "sm_80"),
        cache.path(&compiler(), edited, "sm_90a"),
        cache.path(&newer, RESCORE, "sm_90a"),
    ] {
        assert_ne!(path, other);
    }
}

#[test]
fn torn_and_foreign_files_are_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel.cubin");
    keep(&path, b"machine code").unwrap();
    let whole = fs::read(&path).unwrap();
    assert_eq!(checked(whole.clone()).unwrap(), b"machine code");
    for cut in 0..whole.len() {
        assert_eq!(checked(whole[..cut].to_vec()), None, "{cut}");
    }
    for bit in 0..8 * whole.len() {
        let mut other = whole.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(checked(other), None, "{bit}");
    }
}
