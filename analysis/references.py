"""What the analysis rests on, as BibTeX; a key is what a sentence of the methods cites."""

from __future__ import annotations

REFERENCES = {
    "mccandlish2018": """@article{mccandlish2018,
  title = {An Empirical Model of Large-Batch Training},
  author = {McCandlish, Sam and Kaplan, Jared and Amodei, Dario and {OpenAI Dota Team}},
  year = {2018},
  eprint = {1812.06162},
  archivePrefix = {arXiv}
}""",
    "shallue2018": """@article{shallue2018,
  title = {Measuring the Effects of Data Parallelism on Neural Network Training},
  author = {Shallue, Christopher J. and Lee, Jaehoon and Antognini, Joseph and Sohl-Dickstein, Jascha and
            Frostig, Roy and Dahl, George E.},
  year = {2018},
  eprint = {1811.03600},
  archivePrefix = {arXiv}
}""",
    "zhang2024": """@article{zhang2024,
  title = {How Does Critical Batch Size Scale in Pre-training?},
  author = {Zhang, Hanlin and Morwani, Depen and Vyas, Nikhil and Wu, Jingfeng and Zou, Difan and Ghai, Udaya and
            Foster, Dean and Kakade, Sham},
  year = {2024},
  eprint = {2410.21676},
  archivePrefix = {arXiv}
}""",
    "merrill2025": """@article{merrill2025,
  title = {Critical Batch Size Revisited: A Simple Empirical Approach to Large-Batch Language Model Training},
  author = {Merrill, William and Arora, Shane and Groeneveld, Dirk and Hajishirzi, Hannaneh},
  year = {2025},
  eprint = {2505.23971},
  archivePrefix = {arXiv}
}""",
    "efron1982": """@book{efron1982,
  title = {The Jackknife, the Bootstrap and Other Resampling Plans},
  author = {Efron, Bradley},
  publisher = {SIAM},
  year = {1982}
}""",
    "huber1981": """@book{huber1981,
  title = {Robust Statistics},
  author = {Huber, Peter J.},
  publisher = {Wiley},
  year = {1981}
}""",
    "birge1932": """@article{birge1932,
  title = {The Calculation of Errors by the Method of Least Squares},
  author = {Birge, Raymond T.},
  journal = {Physical Review},
  volume = {40},
  pages = {207--227},
  year = {1932}
}""",
}
"""Key -> BibTeX entry."""
