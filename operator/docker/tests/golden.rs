//! What becomes of the samples on Docker, letter by letter, in `tests/golden`: objects, or a refusal.
//! With UPDATE_GOLDEN=1 the files are written.

use std::path::Path;

use operator_api::DesktopStream;
use operator_docker::names::Place;
use operator_docker::refuse::{Publish, check};
use operator_docker::render::{Device, Setting, objects};
use operator_plan::kubernetes::SidecarImage;
use operator_plan::pair::Pairing;
use operator_plan::testing;
use operator_plan::workload::workload;
use serde::Serialize;

fn document<T: Serialize>(what: &str, object: &T) -> String {
    // By way of a value, whose keys are sorted.
    let value = serde_json::to_value(object).expect("JSON");
    format!("--- # {what}\n{}", serde_yaml_ng::to_string(&value).expect("YAML"))
}

fn rendered(stream: &DesktopStream) -> String {
    let valid = match check(stream, "team") {
        Ok(valid) => valid,
        Err(refused) => {
            let lines: Vec<String> =
                refused.0.iter().map(|problem| format!("# refused: {problem}\n")).collect();
            return lines.concat();
        }
    };
    let card = valid.spec.gpu.nodes == operator_api::GpuNodes::RenderAndCard;
    let gpu = Device {
        render: "/dev/dri/renderD128".to_owned(),
        card: card.then(|| "/dev/dri/card0".to_owned()),
        gids: vec![105],
    };
    let devices = vec![gpu; valid.spec.gpu.count as usize];
    let place = Place::new("team", &valid.names.stream);
    let pairing =
        Pairing::Paired { host_agent: "default".to_owned(), endpoint: Some("vsock://2:15937".to_owned()) };
    let setting = Setting {
        place: &place,
        sidecar: &SidecarImage::default(),
        devices: &devices,
        publish: &Publish::of(stream),
        pairing: &pairing,
        attached: None,
    };
    let objects = objects(&valid, &workload(&valid, Some(105)), setting);
    let mut text = document("network", &objects.network);
    text += &objects.volumes.iter().map(|volume| document("volume", volume)).collect::<String>();
    text += &document("container team_*_sidecar", &objects.sidecar);
    text +=
        &objects.desktop.iter().map(|body| document("container team_*_desktop", body)).collect::<String>();
    text
}

#[test]
fn samples_become_these_objects_on_docker() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    testing::assert_golden(&golden, "operator-docker", |stream| rendered(&stream));
}
