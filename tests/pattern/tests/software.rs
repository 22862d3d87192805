//! `pattern serve --software` from the outside: a screencopy client captures SHM frames and reads what
//! they say. The DMA-BUF way needs a render node; it is tried on the lab VM.

mod common;

use std::time::{Duration, Instant};

use common::{Client, Memory, Server};
use pattern::layout::{Torn, read_number, verify_exact};
use protocol::PixelFormat::Rgbx;

fn number(client: &Client, (width, height): (u32, u32)) -> Result<u32, Torn> {
    read_number(&client.pixels(0), width, height, 4 * width, Rgbx)
}

#[test]
fn numbers_rise_by_one_and_every_pixel_is_right() {
    for (draw, size) in [("shader", (1280, 720)), ("shader", (333, 181)), ("clears", (333, 181))] {
        for memory in [Memory::Sealable, Memory::Unsealable] {
            let server = Server::start(&["--size", &format!("{}x{}", size.0, size.1), "--draw", draw]);
            let mut client = Client::connect(&server, memory);
            assert_eq!(client.offer(), (size.0, size.1, 4 * size.0));
            for want in 1..=20 {
                client.capture(want % 2 == 0).expect("ready");
                assert_eq!(number(&client, size), Ok(want));
                let wrong = verify_exact(want, &client.pixels(0), size.0, size.1, 4 * size.0, Rgbx);
                assert_eq!(wrong, Ok(0), "{draw} {size:?} frame {want}");
            }
        }
    }
}

#[test]
fn fast_enough_to_be_the_truth() {
    let server = Server::start(&["--size", "1280x720"]);
    let mut client = Client::connect(&server, Memory::Sealable);
    let begun = Instant::now();
    let mut frames = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        client.capture(true).expect("ready");
        frames += 1;
        assert_eq!(number(&client, (1280, 720)), Ok(frames));
    }
    let fps = f64::from(frames) / begun.elapsed().as_secs_f64();
    println!("SHM 1280x720, software: {fps:.0} fps");
    // A machine that is 20 times slower than a slow one.
    assert!(fps > 5.0, "{fps}");
}

#[test]
fn paced() {
    let server = Server::start(&["--size", "64x36", "--fps", "20"]);
    let mut client = Client::connect(&server, Memory::Sealable);
    let begun = Instant::now();
    for _ in 0..11 {
        client.capture(true).expect("ready");
    }
    // The first comes at once, the second on the next beat, nine more follow at 50 ms each.
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
}

#[test]
fn a_static_screen_lets_damage_wait_and_copy_go() {
    let server = Server::start(&["--size", "64x36", "--static-after", "3"]);
    let mut client = Client::connect(&server, Memory::Sealable);
    for want in [1, 2, 3] {
        client.capture(true).expect("ready");
        assert_eq!(number(&client, (64, 36)), Ok(want));
    }
    client.capture(false).expect("copy does not wait");
    assert_eq!(number(&client, (64, 36)), Ok(3));
    client.request(true);
    assert!(!client.answered_within(Duration::from_millis(200)), "nothing changed");
    // Another client has not seen the picture yet.
    let mut other = Client::connect(&server, Memory::Sealable);
    other.capture(true).expect("first sight is damage");
    assert_eq!(number(&other, (64, 36)), Ok(3));
    server.toggle();
    client.answer().expect("ready");
    assert_eq!(number(&client, (64, 36)), Ok(4));
}

#[test]
fn faults_show() {
    let size = (640, 360);
    let server = Server::start(&["--size", "640x360", "--fault", "tear"]);
    let mut client = Client::connect(&server, Memory::Sealable);
    for want in 1..=5 {
        client.capture(true).expect("ready");
        assert_eq!(number(&client, size), Err(Torn::Disagree { top: want + 1, bottom: want }));
    }
    let server = Server::start(&["--size", "640x360", "--fault", "ready-before-draw"]);
    let mut client = Client::connect(&server, Memory::Sealable);
    client.capture(true).expect("ready");
    assert_ne!(number(&client, size), Ok(1), "nothing can be there yet");
    let begun = Instant::now();
    while number(&client, size) != Ok(1) {
        assert!(begun.elapsed() < Duration::from_secs(5), "it was never drawn");
        std::thread::yield_now();
    }
}

#[test]
fn bad_clients_get_errors_and_the_desktop_lives() {
    let server = Server::start(&["--size", "64x36"]);
    for (width, height, stride, pool, file, error) in [
        (65, 36, 260, 9360, 9360, "invalid buffer dimensions"),
        (64, 36, 512, 18432, 18432, "invalid buffer stride"),
        (64, 36, 100, 9216, 9216, "beyond its pool"),
        (64, 37, 256, 9216, 9216, "beyond its pool"),
        (64, -1, 256, 9216, 9216, "invalid size"),
        (64, 9999, 256, 9216, 9216, "invalid size"),
        (64, 36, 256, 9216, 9215, "smaller than the pool"),
        (64, 36, 256, -1, 9216, "invalid pool size"),
    ] {
        let mut client = Client::connect(&server, Memory::Unsealable);
        client.make_buffer(width, height, stride, pool, file);
        client.request(true);
        let answer = client.answer();
        assert!(answer.as_ref().is_err_and(|text| text.contains(error)), "{error}: {answer:?}");
    }
    // The file shrinks after the buffer was made: no crash, `failed`.
    let mut client = Client::connect(&server, Memory::Unsealable);
    client.capture(true).expect("ready");
    client.truncate(10).expect("nothing seals it");
    assert_eq!(client.capture(true).expect("no protocol error"), common::Answer::Failed);
    assert_eq!(client.file_len(), 10, "not made longer");
    let mut client = Client::connect(&server, Memory::Sealable);
    client.capture(true).expect("ready");
    assert!(client.truncate(10).is_err(), "what is mapped can't shrink");
    // Gone while it waits.
    let mut client = Client::connect(&server, Memory::Sealable);
    client.request(true);
    drop(client);
    let mut client = Client::connect(&server, Memory::Sealable);
    client.capture(true).expect("ready");
    assert!(number(&client, (64, 36)).is_ok());
}

#[test]
fn a_thousand_clients_leave_nothing_behind() {
    let server = Server::start(&["--size", "64x36"]);
    let visit = |memory| Client::connect(&server, memory).capture(true).map(drop).expect("ready");
    visit(Memory::Sealable);
    let before = server.settled_fds(None);
    for at in 0..1000 {
        visit(if at % 2 == 0 { Memory::Sealable } else { Memory::Unsealable });
    }
    assert_eq!(server.settled_fds(Some(before)), before);
}

#[test]
fn starts_over_a_stale_socket_and_cleans_up() {
    let mut server = Server::start(&["--size", "64x36"]);
    server.kill();
    assert!(server.socket().exists(), "killed: it could not clean up");
    server.restart();
    Client::connect(&server, Memory::Sealable).capture(true).expect("ready");
    assert!(server.terminate().success());
    assert!(!server.socket().exists());
}
