"""Published weights in and out: files of every layout read into our parameters and written back.

Names load on first use, so that importing the package costs nothing.
"""

from big_vit_lite import lazy

__all__, __getattr__, __dir__ = lazy.names(
    __name__,
    {
        "Loaded": "loading",
        "Preprocessing": "preprocessing",
        "Sections": "sections",
        "LAYOUTS": "layouts",
        "check_agreement": "agreement",
        "check_start": "starting",
        "check_start_fits": "starting",
        "holds_weights": "files.source",
        "load": "loading",
        "locate": "hub",
        "naming_fields": "agreement",
        "normalisation": "starting",
        "patch_resize": "resizing",
        "save": "saving",
        "save_again": "saving",
        "start_from": "starting",
        "takes": "agreement",
    },
)
