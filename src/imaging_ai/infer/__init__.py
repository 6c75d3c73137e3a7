"""From instances to findings: volumes, MONAI bundles, measurements. Heavy; only a worker's runner imports torch."""
