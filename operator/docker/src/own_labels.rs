//! The labels that a container got from the user who created it, without those that its image brought along.
//!
//! A container has the labels of its image, too. A user who may create containers controls the machine, whereas the author
//! of an image is trusted with the container only.

use std::collections::HashMap;

use bollard::models::ImageInspect;

use crate::container::Container;
use crate::engine::{Engine, EngineError};

/// Labels by key.
pub type Labels = HashMap<String, String>;

/// Labels of images by ID. An ID is a digest of the image, so that its labels never change.
#[derive(Debug, Default)]
pub struct ImageLabels(HashMap<String, Image>);

/// The part of an image that matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Image {
    labels: Labels,
    architecture: Option<String>,
}

impl From<ImageInspect> for Image {
    fn from(found: ImageInspect) -> Self {
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        Self { labels, architecture: found.architecture }
    }
}

impl ImageLabels {
    /// Removes the labels of their images from containers. Images that no container has any more are forgotten.
    ///
    /// # Errors
    ///
    /// If the Engine does not answer.
    pub async fn strip(&mut self, engine: &Engine, containers: &mut [Container]) -> Result<(), EngineError> {
        self.0.retain(|id, _| containers.iter().any(|it| it.image_id == *id));
        for container in containers {
            let id = &container.image_id;
            if !self.0.contains_key(id)
                && let Some(found) = engine.image(id).await?
            {
                self.0.insert(id.clone(), Image::from(found));
            }
            container.labels = own(container, self.0.get(id));
        }
        Ok(())
    }
}

/// The container's own labels: none if the image, or the image's variant that the container runs, is unknown.
fn own(container: &Container, image: Option<&Image>) -> Labels {
    let Some(image) = image else { return Labels::new() };
    if container.architecture.is_some() && container.architecture != image.architecture {
        return Labels::new();
    }
    without(&container.labels, &image.labels)
}

/// Labels of a container that its image does not have with the same value.
pub fn without(container: &Labels, image: &Labels) -> Labels {
    let labels = container.iter().filter(|(key, value)| image.get(*key) != Some(*value));
    labels.map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn container(architecture: Option<&str>) -> Container {
        Container {
            labels: labels(&[("image", "1"), ("both", "container"), ("user", "2")]),
            architecture: architecture.map(str::to_owned),
            ..Container::default()
        }
    }

    #[test]
    fn labels_of_the_image_are_not_the_containers_own() {
        let image = Image {
            labels: labels(&[("image", "1"), ("both", "image"), ("other", "3")]),
            ..Image::default()
        };
        let expected = labels(&[("both", "container"), ("user", "2")]);
        assert_eq!(own(&container(None), Some(&image)), expected);
    }

    #[test]
    fn container_of_an_unknown_image_or_variant_has_no_own_labels() {
        assert_eq!(own(&container(None), None), Labels::new());
        let amd64 = Image { architecture: Some("amd64".to_owned()), ..Image::default() };
        assert_eq!(own(&container(Some("arm64")), Some(&amd64)), Labels::new());
        assert_eq!(own(&container(Some("amd64")), Some(&amd64)).len(), 3);
    }
}
