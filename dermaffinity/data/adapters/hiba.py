"""HIBA: 1,616 images of 623 patients from the Hospital Italiano de Buenos Aires."""

from collections.abc import Mapping

from dermaffinity.data.adapters.isic import IsicAdapter


class HibaAdapter(IsicAdapter):
    """Reads HIBA, collection 251 of the ISIC Archive: 1,270 dermatoscopic and 346 clinical images of 1,246 lesions.

    All is as for the adapter ``isic``. The group is the patient, whom every image names. Some images have no diagnosis
    at level 3, and take that of level 2. ``skin_tone`` is Fitzpatrick's, from I to VI.

    Examples:
        >>> from dermaffinity.data.adapters import HibaAdapter
        >>> HibaAdapter.published
        {'all': 1616}
    """

    name = "hiba"
    citation = "Ricci Lara et al., Sci. Data 10:712 (2023), doi:10.34970/587329"
    license = "CC BY 4.0"
    published: Mapping[str, int] = {"all": 1616}

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "HIBA is free: pip install isic-cli, then isic image download --collections 251 FOLDER. Point SOURCE at "
            "that folder."
        )
