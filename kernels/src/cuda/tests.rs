use super::*;

#[test]
fn choices_are_read_and_printed() {
    for (text, choice) in [
        ("auto", Choice::Auto),
        ("cpu", Choice::Cpu),
        ("cuda:0", Choice::Cuda(0)),
        ("cuda:12", Choice::Cuda(12)),
    ] {
        assert_eq!(text.parse(), Ok(choice));
        assert_eq!(choice.to_string(), text);
    }
    assert_eq!("cuda".parse(), Ok(Choice::Cuda(0)));
    for text in
        ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:99999999999999999999"]
    {
        let refused = text.parse::<Choice>().unwrap_err();
        assert!(refused.contains("one of auto, cpu, cuda"), "{refused}");
    }
}

#[test]
fn the_cpu_is_taken_when_asked_for() {
    let chosen = choose(Choice::Cpu, &Options::default()).unwrap();
    assert!(chosen.device.is_none());
    assert_eq!(chosen.reason, "cpu: as configured");
}

#[test]
fn a_device_that_is_not_there_is_an_error_only_when_it_was_named() {
    let error = choose(Choice::Cuda(4096), &Options::default()).unwrap_err();
    let Error::Unavailable(why) = &error else { panic!("{error:?}") };
    assert!(why.contains("driver") || why.contains("there is no cuda:4096"), "{why}");

    let chosen = choose(Choice::Auto, &Options::default()).unwrap();
    match &chosen.device {
        None => assert!(chosen.reason.starts_with("cpu: "), "{}", chosen.reason),
        Some(device) => assert!(chosen.reason.contains(&device.description().name)),
    }
}
