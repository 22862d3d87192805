//! The Docker objects of the samples, or the refusal, compared with `tests/golden`. `UPDATE_GOLDEN=1` writes the files.

use std::path::Path;

use operator_api::{DesktopStream, DeviceNodes};
use operator_docker::names::StreamKey;
use operator_docker::publish::Publish;
use operator_docker::render::{Device, Settings, objects};
use operator_docker::unsupported::validate;
use operator_plan::kubernetes::SidecarImage;
use operator_plan::pair::Pairing;
use operator_plan::testing;
use operator_plan::workload::workload;
use serde::Serialize;

fn document<T: Serialize>(title: &str, object: &T) -> String {
    // The keys of a value are sorted.
    let value = serde_json::to_value(object).expect("JSON");
    format!("--- # {title}\n{}", serde_yaml_ng::to_string(&value).expect("YAML"))
}

fn rendered(stream: &DesktopStream) -> String {
    let team = "team".parse().expect("a project");
    let valid = match validate(stream, &team) {
        Ok(valid) => valid,
        Err(refused) => {
            let lines: Vec<String> =
                refused.0.iter().map(|problem| format!("# refused: {problem}\n")).collect();
            return lines.concat();
        }
    };
    let card = valid.spec.gpu.device_nodes == DeviceNodes::RenderAndCard;
    let gpu = Device {
        render: "/dev/dri/renderD128".to_owned(),
        card: card.then(|| "/dev/dri/card0".to_owned()),
        gids: vec![105],
    };
    let devices = vec![gpu; valid.spec.gpu.count as usize];
    let key = StreamKey::new(&team, &valid.names.stream.parse().expect("a name"));
    let endpoint = "vsock://2:15937".parse().expect("an endpoint");
    let pairing = Pairing::Paired { host_agent: "default".to_owned(), endpoint: Some(endpoint) };
    let settings = Settings {
        key: &key,
        sidecar: &SidecarImage::default(),
        devices: &devices,
        publish: &Publish::of(stream),
        pairing: &pairing,
        socket: None,
        attached: None,
    };
    let objects = objects(&valid, &workload(&valid, Some(105)), settings);
    let mut text = document("network", &objects.network);
    text += &objects.volumes.iter().map(|volume| document("volume", volume)).collect::<String>();
    text += &document("container team_*_sidecar", &objects.sidecar);
    text +=
        &objects.desktop.iter().map(|body| document("container team_*_desktop", body)).collect::<String>();
    text
}

#[test]
fn sample_objects_match_the_golden_files() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    testing::assert_golden(&golden, "operator-docker", |stream| rendered(&stream));
}
