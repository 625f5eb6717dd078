//! Without the cargo feature `hub`, ImageNet weights are refused with the way out.
#![cfg(not(feature = "hub"))]

use candle_core::Device;
use headstart::{ConvBase, Error, Weights};

#[test]
fn imagenet_weights_say_which_feature_they_need() {
    let error = ConvBase::vgg19(Weights::ImageNet, &Device::Cpu).unwrap_err();
    assert!(matches!(error, Error::Hub { .. }), "{error:?}");
    let error = error.to_string();
    for part in ["timm/vgg19.tv_in1k", "feature `hub`", "Weights::file"] {
        assert!(error.contains(part), "{error}");
    }
}
